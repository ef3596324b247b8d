"""Data sets as users write them, for tests of the user's own loaders."""

import os
import signal

import torch
from torch.utils.data import Dataset, IterableDataset


class Photos(Dataset):
    """n random pictures with labels, by index; `change` makes another image of one, given its index and pixels."""

    def __init__(self, n=40, *, change=None, dtype=torch.float32, lists=True, side=32, classes=10):
        x = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(n))
        self.x = (255 * x).round().to(torch.uint8) if dtype == torch.uint8 else x.to(dtype)
        self.y = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(1))
        self.change, self.looks, self.asked = change, 0, []
        if lists:
            self.targets = self.y.tolist()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.looks += 1
        self.asked.append(index)
        x = self.x[index]
        return (x if self.change is None else self.change(index, x)), int(self.y[index])


class Stream(IterableDataset):
    """The same pictures, which can only be read one after another."""

    def __init__(self, n=12):
        self.photos = Photos(n)

    def __iter__(self):
        return (self.photos[index] for index in range(len(self.photos)))


class Fatal:
    """A change that ends the worker process, once, as a file says, when it comes to an image."""

    def __init__(self, index, mark, main):
        self.index, self.mark, self.main = index, mark, main

    def __call__(self, index, x):
        if index == self.index and os.getpid() != self.main and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x
