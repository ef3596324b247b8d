"""TensorBoard: event files, written record by record by this process itself, so that an error of the disk is told where it happens."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robench.report.trackers.records import Log, LogRecord, TrackedRun

FILE_START = "events.out.tfevents"


def tensorboard_log(run: TrackedRun) -> Log:
    """Event files of TensorBoard: <out>/tensorboard, of a training FILE.tensorboard beside FILE.pt.

    Scalars are of single precision there, as TensorBoard has them. Files of earlier runs stay; of a training that begins anew in the same
    place TensorBoard shows the new curves alone.

    Args:
        run: the run; of one that is gone on with the curves go on, and no step is there twice.
    """
    from tensorboard.compat.proto.event_pb2 import SessionLog

    folder = run.own_path("tensorboard")
    folder.mkdir(parents=True, exist_ok=True)
    last_steps = last_logged_steps(folder) if run.steps_done else {}
    file = new_event_file(folder)
    hide_earlier_runs = {"step": 0, "session_log": SessionLog(status=SessionLog.START)}
    first = [{"step": 0, "summary": summary_of([parameter_table(run)])}]
    append_events(file, [{"file_version": "brain.Event:2"}, *([] if run.steps_done else [hide_earlier_runs, *first])])

    def log(records: Sequence[LogRecord]) -> None:
        values = [(record.step, [*scalar_values(record, last_steps), *picture_values(record)]) for record in records]
        append_events(file, [{"step": step, "summary": summary_of(some)} for step, some in values if some])

    return log


def append_events(file: Path, contents: Sequence[dict[str, Any]]) -> None:
    """Writes events to the end of a file, which is open only meanwhile."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    with file.open("ab") as handle:
        writer = RecordWriter(handle)
        for content in contents:
            writer.write(Event(wall_time=time.time(), **content).SerializeToString())


def new_event_file(folder: Path) -> Path:
    """The path of a new event file, whose name sorts behind those that are there, also where the clock was set back."""
    times = [name.split(".")[3] for path in folder.glob(f"{FILE_START}.*") if len((name := path.name).split(".")) > 4]
    now = max([int(time.time()), *(int(text) + 1 for text in times if text.isdecimal())])
    return folder / f"{FILE_START}.{now:010d}.{socket.gethostname()}.{os.getpid()}.0"


def last_logged_steps(folder: Path) -> dict[str, int]:
    """The last step of each scalar in the event files of a folder, by its tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 1}).Reload()
    return {tag: events.Scalars(tag)[-1].step for tag in events.Tags()["scalars"]}


def summary_of(values: Sequence[Any]) -> Any:
    """A summary with these values."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=values)


def scalar_values(record: LogRecord, last_steps: dict[str, int]) -> Iterator[Any]:
    """The numbers of a record, but for those that are there already."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    for tag, value in record.values.items():
        if record.step > last_steps.get(tag, -1):
            yield Summary.Value(tag=tag, simple_value=value)


def picture_values(record: LogRecord) -> Iterator[Any]:
    """The PNG files of a record as they are."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    for path in record.files:
        if path.suffix == ".png":
            data = path.read_bytes()
            width, height = struct.unpack(">II", data[16:24])  # of the first chunk of every PNG
            yield Summary.Value(tag=path.stem, image=Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data))


def parameter_table(run: TrackedRun) -> Any:
    """What was asked for, as a table for TensorBoard's page of texts."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    lines = ["| parameter | value |", "|---|---|", *(f"| {name} | `{value}` |" for name, value in run.parameters.items())]
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    text = TensorProto(dtype=DT_STRING, string_val=["\n".join(lines).encode()], tensor_shape=shape)
    kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag="parameters", tensor=text, metadata=kind)
