"""Trains a network from a preset and a few words.

`train` makes these steps in this order, each by the module that is named with it:

1. the words of the user are read (`core.inputs`, `preparation`);
2. the images of the training and of the test are loaded (`preparation`);
3. settings, split of the images, first weights and plan are made, and what would end the training later is refused (`preparation`);
4. the files of the checkpoint are claimed (`checkpoint_files`);
5. a training that an earlier run has finished is handed back (`checkpoint_files`, `teachers`);
6. the teacher is loaded or trained, where something learns from one (`teachers`);
7. weights that are begun with are measured, then the run is at its first step or where its state says (`clean_before`, `steps`, `states`);
8. epochs of steps are trained (`epochs`, one step in `steps`, the guard in `guards`), with trackers looking on (`tracked`);
9. the epoch whose weights are kept is chosen (`epochs`);
10. these weights are measured, and held against those before (`final_measurement`, `clean_before`);
11. checkpoint, log and curves are written (`checkpoint_files`), and trackers are told (`tracked`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robench.core.inputs import PathLike, Suite, as_device, as_path, as_suite
from robench.core.memory import explain_out_of_memory
from robench.core.model_calls import with_gradients
from robench.core.processes import current_world
from robench.models import checkpoint
from robench.training.beginnings import beginning_of
from robench.training.checkpoint_files import (
    claimed_checkpoint,
    finished_training,
    has_unfinished_training,
    measurement_folder,
    write_training,
)
from robench.training.clean_before import before_notes, before_words, clean_measurement, fall_notes
from robench.training.epochs import fit, selected_epoch
from robench.training.final_measurement import final_measurements, measured_words
from robench.training.preparation import data_arguments, images_of_split, initial_meta, prepare_training, refuse_other_choice
from robench.training.presets import FINE_TUNING, default_preset
from robench.training.settings import checkpoint_stem, loss_recipes
from robench.training.states import ResumableRun, resumable_events, resume_from_state
from robench.training.steps import begin_training
from robench.training.teachers import (
    TEACHER_SETTINGS,
    Teacher,
    named_teacher,
    needs_teacher,
    own_teacher_digest,
    own_teacher_words,
    refuse_other_teacher,
    teacher_path,
    trained_teacher,
)
from robench.training.timed_trainings import end_if_planned
from robench.training.tracked import training_log, training_trackers
from robench.training.types import Epoch, EventWatcher, Trained, TrainingNote, show_notes


@with_gradients
def train(
    data: str = "shapes",
    *,
    preset: str | None = None,
    data_dir: PathLike | None = None,
    download: bool = False,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    pixels: str = "auto",
    workers: int | None = None,
    skip_damaged: bool = False,
    layout: str | None = None,
    n_train: int | None = None,
    eval_n: int = 300,
    suite: Suite = ("pgd-20", "apgd-ce"),
    measure: str = "test",
    seed: int = 0,
    device: str = "cpu",
    out: PathLike | None = None,
    select: str = "best",
    teacher: PathLike | None = None,
    teachers: PathLike | None = None,
    resume: bool = False,
    force: bool = False,
    log: str | Sequence[str] | None = None,
    watch: EventWatcher = lambda events, epochs: events,  # noqa: ARG005
    origin: Mapping[str, Any] | None = None,
    arch: str | None = None,
    activation: str | None = None,
    objective: str | None = None,
    reg: str | Sequence[str] | None = None,
    norm: str | None = None,
    eps: float | str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    momentum: float | None = None,
    nesterov: bool | None = None,
    weight_decay: float | None = None,
    schedule: str | None = None,
    augment: str | None = None,
    ema: float | None = None,
    label_smoothing: float | None = None,
    normalize: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    held_out: float | None = None,
    probe_n: int | None = None,
    mixup: float | None = None,
    cutmix: float | None = None,
    awp: float | None = None,
    awp_warmup: float | None = None,
    precision: str | None = None,
    compiled: bool | None = None,
    guard: str | None = None,
    freeze: str | Sequence[str] | None = None,
    accumulate: int | None = None,
    swa: float | None = None,
    init: PathLike | None = None,
    weights: str | None = None,
    new_head: bool = False,
    trust: bool = False,
    extra: str | None = None,
) -> Trained:
    """Trains a network on a named data set and saves it, with its settings and its measured accuracies.

    Under `torchrun` every process takes its share of each batch, and the first one writes.

    Args:
        data: the name of a data set, as `--data` takes it: "shapes", "mnist", "cifar10", "npz:FILE", "folder:PATH".
        preset: a name of presets.PRESETS; by default the one for the shape of the images. It gives what is None from `arch` on.
        data_dir: the folder in which the data lie.
        download: whether data that are not there may be fetched.
        image_size: pixels a side of the images of a folder.
        resize: pixels a side to which images are brought.
        interpolation: how images are resized: "bilinear" unless given, "bicubic", "lanczos", "box", "hamming" or "nearest".
        pixels: where those of image files are kept: "memory", "disk" to decode them as they are asked for, or "auto", by their size.
        workers: processes that decode what stays on the disk; 0 for none, None for one a core, at most four.
        skip_damaged: leave out image files that cannot be read, with a note, in place of an error.
        layout: what the folders in "folder:PATH" are, "splits" or "classes", where their names leave two readings.
        n_train: take that many images, drawn with the seed, the same share of each class; the held-out ones come out of them.
        eval_n: how many images are attacked at the end.
        suite: what is run then, beside the clean accuracy: a name of suites.SUITES, or recipes.
        measure: the images that are measured: "test", or "held-out", the same share of each class, where a setting is to be chosen by
            the result.
        seed: of all random numbers, from 0 to 2^32 - 1.
        device: "cpu", "cuda", "mps".
        out: the checkpoint to write: FILE.pt, with FILE.json beside it, and FILE.last.pt (or FILE.best.pt, with select="last") where the
            last epoch was not the best, FILE.log.csv, FILE.curves.png; a folder gets a file named after data, architecture, loss,
            other settings and seed, with the next free number; None: nothing is written. While the training runs its state lies in
            FILE.state.pt.
        select: which weights become FILE.pt: "best" on the held-out split, or "last". Best is for a defence the latest epoch whose
            PGD-10 accuracy lies within one standard error of the best, if that is surely above 1.5 / K, else the last epoch, before one
            where FGSM leaves far more than PGD-10, with a note; without a defence the epoch of the best clean accuracy. No epoch with an
            alarm is taken.
        teacher: a checkpoint or a file of weights of the same architecture for what learns from one (igd, hat); without it a network is
            trained first, with the same settings and no defence, and kept in FILE.teacher.pt.
        teachers: a folder where such a network is kept instead, under a name made of its settings, and found again by other trainings.
        resume: go on from FILE.state.pt, to the weights of an unbroken training; what is finished is handed back as it is. Without a
            file name, with the newest unfinished training of these words.
        force: replace a finished training in FILE.pt once this one is whole; without it that is refused.
        log: trackers that get the loss of every step, the accuracies of every epoch and what is measured at the end: "tensorboard" (into
            FILE.tensorboard), "mlflow,experiment=NAME", "mine.py:function". They need `out`; a teacher that is trained first is not logged.
        watch: wraps the iterator of Step, Epoch and TrainingNote, to show progress; it is given the number of epochs too.
        origin: what else the JSON beside the checkpoint is to say of how the training was called, as plain values.
        arch: the architecture with its options: "resnet18", "cnn,dropout=0.1", "tv/resnet50", "mine.py:factory".
        activation: of `arch`: "relu", "gelu", "silu" or "softplus".
        objective: the loss: "standard", "pgd-at,steps=10", "trades,beta=6", "mine.py:function".
        reg: regularisers with their weights, one or several: "sagr=0.1,rho=0.1".
        norm: of the threat of training: "linf", "l2" or "l1".
        eps: its radius in pixels of [0, 1], such as 8 / 255 or "8/255".
        epochs: passes over the training images, at least 1.
        batch_size: images a step, at least 1.
        optimizer: "sgd" or "adamw".
        lr: the largest learning rate, above 0.
        momentum: of sgd, in [0, 1); beta1 of adamw.
        nesterov: whether the momentum of sgd is Nesterov's.
        weight_decay: at least 0.
        schedule: of the learning rate, with its options: "one-cycle", "piecewise,first=0.5,second=0.75".
        augment: of the training images: "none", "flip", "crop", "crop-flip", "cutout", "crop-flip-cutout", "random-resized-crop",
            or "rand-augment,n=2,m=9".
        ema: share of the old weights in averaged ones, in [0, 1); 0 for none.
        label_smoothing: in [0, 1).
        normalize: "data", by mean and spread of the training images, or "none".
        mean: in place of it, one number a channel.
        std: the spread that goes with `mean`, one number a channel, above 0.
        held_out: a number of training images, or a share below 1; if not given, the preset's number, but at most a fifth of the images.
        probe_n: how many held-out images are attacked after an epoch, at least 1.
        mixup: the parameter of its Beta distribution, at least 0; 0 for none.
        cutmix: the parameter of its Beta distribution, at least 0; 0 for none.
        awp: the relative size of adversarial weight perturbations, at least 0; 0 for none.
        awp_warmup: the share of the training before they begin, in [0, 1).
        precision: "fp32", "tf32" or "bf16".
        compiled: whether the network goes through torch.compile.
        guard: what happens at an alarm, such as that of catastrophic overfitting: "stop", "roll-back" or "off".
        freeze: prefixes of the names of parameters that stay as they are, one or several ("conv1", "layer1,layer2"), with the statistics
            of the batch norm there.
        accumulate: in how many parts of one size the images of a step go through the network, whose gradients are added; at least 1.
        swa: share of the training, in [0, 1), from which on the weights at the ends of epochs are averaged, all alike; 0 for none.
        init: the weights to begin with, whatever `robench.load_model` takes: a checkpoint, a file of weights of `arch`, "tv/resnet50,
            weights=DEFAULT". The preset is then "fine-tune" unless one is named, and the clean accuracy before is measured too.
        weights: of a file that holds several sets of them, the key of the one.
        new_head: whether the last layer begins with random weights, as it must where the number of classes is another.
        trust: whether a whole pickled model in `init` may be unpickled, which runs code.
        extra: a data set whose training images take part in every batch, with their share: "npz:generated.npz,share=0.7"; an epoch is
            counted in the images of `data`, from which alone some are held out.

    Returns:
        A `Trained`: the network, its meta, what was measured, and the path of the checkpoint.

    Raises:
        InputError: one sentence, for settings that cannot be; before the first step wherever it can be known then.
        DivergedError: an InputError, where the loss has diverged and no earlier epoch can be used.

    Example:
        >>> done = robench.train("shapes", arch="mlp,width=8", n_train=200, held_out=50, epochs=1, eval_n=12, suite=["fgsm"])
        >>> list(done.meta["metrics"])
        ['clean', 'clean, attacked images', 'fgsm']
    """
    # 1. the words of the user (core.inputs, preparation)
    refuse_other_choice("select", select, ("best", "last"))
    refuse_other_choice("measure", measure, ("test", "held-out"))
    options: dict[str, Any] = {
        "arch": arch, "activation": activation, "objective": objective, "reg": reg, "norm": norm, "eps": eps, "epochs": epochs,
        "batch_size": batch_size, "optimizer": optimizer, "lr": lr, "momentum": momentum, "nesterov": nesterov,
        "weight_decay": weight_decay,
        "schedule": schedule, "augment": augment, "ema": ema, "label_smoothing": label_smoothing, "normalize": normalize, "mean": mean,
        "std": std, "held_out": held_out, "probe_n": probe_n, "mixup": mixup, "cutmix": cutmix, "awp": awp, "awp_warmup": awp_warmup,
        "precision": precision, "compiled": compiled, "guard": guard, "freeze": freeze,
        "accumulate": accumulate, "swa": swa, "extra": extra,
    }  # fmt: skip
    overrides = {key: value for key, value in options.items() if value is not None}
    data_dir, out, teacher = as_path(data_dir, "data_dir"), as_path(out, "out"), as_path(teacher, "teacher")
    trackers = training_trackers(log, out)
    teachers, suite, device = as_path(teachers, "teachers"), as_suite(suite), as_device(device)
    data, seed, n_train, eval_n = data_arguments(data, seed, n_train, eval_n)

    # 2. the images of the training and of the test (preparation)
    data_options: dict[str, Any] = {
        "data_dir": data_dir, "download": download, "image_size": image_size, "resize": resize, "interpolation": interpolation,
        "pixels": pixels, "workers": workers, "skip_damaged": skip_damaged, "layout": layout,
    }  # fmt: skip
    images = images_of_split(data, "train", n_train, seed, preset=preset, **data_options)
    test = None if measure == "held-out" else images_of_split(data, "test", preset=preset, **data_options)

    # 3. settings, split of the images, first weights, plan (preparation)
    usual, world = default_preset(images.shape), current_world()
    preset = preset or (usual if init is None else FINE_TUNING)
    prepared = prepare_training(
        images,
        test,
        preset,
        overrides,
        seed=seed,
        suite=suite,
        eval_n=eval_n,
        processes=world.size,
        download=download,
        beginning=beginning_of(init, weights, new_head, trust, download=download),
        data_options=data_options,
    )
    settings, recipes, words = (
        prepared.settings,
        loss_recipes(prepared.settings),
        initial_meta(prepared, images, preset, seed=seed, select=select, measure=measure, eval_n=eval_n, suite=suite),
    )
    end_if_planned(
        prepared, images, suite=suite, device=device, teacher=teacher, seed=seed, out=out, teachers=teachers, anew=force and not resume
    )

    # 4. the files of the checkpoint, which nobody else can write to as long as this lasts (checkpoint_files)
    with (
        claimed_checkpoint(
            out, checkpoint_stem(settings, preset, usual, images.name, seed), words, world, resume=resume, force=force
        ) as file,
        training_log(trackers, world.rank) as logged,
    ):
        own_teacher = teacher_path(file, teachers, {**settings, **TEACHER_SETTINGS, "seed": seed, **prepared.begins_with})
        named = named_teacher(teacher, recipes, prepared.model, prepared.about, images) if teacher else None

        # 5. the training as it is, where an earlier run has finished it and has learnt from the same teacher (checkpoint_files, teachers)
        finished = finished_training(file, words) if resume and not (force and has_unfinished_training(file)) else None
        if finished:
            refuse_other_teacher(finished[1], named.sha256 if named else own_teacher_digest(finished[1], own_teacher))
            return loaded_training(prepared.model, finished, device, file)

        # 6. the teacher: named, trained first by this very function without a defence, or none (teachers)
        if named is None and needs_teacher(recipes):
            undefended = train(
                data, preset=preset, **data_options, n_train=n_train, eval_n=eval_n, suite=(), measure=measure, seed=seed, device=device,
                watch=watch, init=init, weights=weights, new_head=new_head, trust=trust,
                **{**settings, **TEACHER_SETTINGS, "extra": extra},
                **own_teacher_words(own_teacher, resume=resume, force=force, watch=watch),
            )  # fmt: skip
            source = trained_teacher(undefended, prepared.model)
        else:
            source = named or Teacher()
        plan = replace(prepared.plan, teacher=None if source.model is None else source.model.to(device))
        words = {**words, "recipe": {**words["recipe"], "teacher": source.origin}}

        # 7. weights that are begun with measured; the run at its first step, or where its state file says (clean_before, steps, states)
        before, run = (
            clean_measurement(prepared, device, file and measurement_folder(file)) if prepared.is_comparable else None,
            begin_training(prepared.model.to(device), plan, world),
        )
        going = ResumableRun(file, checkpoint.plain_values({**words, "processes": world.size}), run, logged.write_pending)
        notes = [*prepared.notes, *before_notes(before, prepared.test), *source.notes, *resume_from_state(going, resume, force)]

        # 8. epochs of steps, with trackers and `watch` looking on (epochs, steps, guards, tracked)
        fitting = logged.events(fit(run, plan, prepared.training.to(device), prepared.held_out.to(device)), run, file, words)
        with explain_out_of_memory(plan.batch_size):
            events = watch(chain(map(TrainingNote, notes), resumable_events(going, fitting)), plan.epochs)
            alarms = [event.alarm for event in events if isinstance(event, Epoch) and event.alarm]

        # 9. the epoch whose weights are kept (epochs)
        best, doubts = selected_epoch(run, plan, prepared.held_out)
        last = run.last or best
        saved_epoch, late_notes = (best, doubts) if select == "best" else (last, [])
        show_notes(late_notes, watch)

        # 10. what these weights reach, and whether that is less than before (final_measurement, clean_before)
        network = copy.deepcopy(run.average)
        network.load_state_dict(saved_epoch.weights)
        measurements = final_measurements(
            network, prepared.test, prepared.few, suite, plan.threat, seed, device, file and measurement_folder(file)
        )
        show_notes(falls := fall_notes(before, measurements[0], images.classes), watch)
        meta = {
            **words, "classes": list(images.classes), "history": run.history, "rolled_back": run.lost_epochs,
            "notes": [*notes, *alarms, *late_notes, *falls], "recipe": {**words["recipe"], "epoch": saved_epoch.epoch + 1},
            **before_words(before, prepared.test), **measured_words(measurements, prepared.test), **(origin or {}),
        }  # fmt: skip

        # 11. the files, after which the training is finished, between the last words to the trackers (checkpoint_files, tracked)
        logged.measured(meta["metrics"])
        if file is not None and world.rank == 0:
            write_training(file, network, meta, saved_epoch, {"best": best, "last": last})
        logged.finish(file, watch)
        return Trained(network.eval(), meta, measurements, file)


def loaded_training(model: nn.Module, done: tuple[dict[str, Tensor], dict[str, Any]], device: str, out: Path | None) -> Trained:
    """A training that was finished earlier."""
    model.load_state_dict(done[0])
    return Trained(model.to(device).eval(), done[1], [], out)
