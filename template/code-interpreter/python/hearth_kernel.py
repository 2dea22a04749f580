"""What the code interpreter adds to IPython: results as data, besides as text.

An IPython extension, loaded by the kernel's command line, so that nothing of it
shows among the user's names. Packages are recognised by the names of their types
and are not imported before the user does.
"""

import datetime
import decimal
import importlib.abc
import importlib.machinery
import inspect
import math
import numbers
import os
import sys

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

# Output travels in pieces of this many characters.
PIECE = 1 << 18
# A frame with more cells than this is shown, but not sent as data.
MAX_CELLS = 1_000_000


class DataFormatter(BaseFormatter):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict, str)


class ChartFormatter(BaseFormatter):
    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict, str)

    def __call__(self, obj):
        # Not by registration: the inline backend strikes figures out of every
        # formatter's register when it is chosen.
        if is_figure(type(obj)):
            return figure_chart(obj)
        return super().__call__(obj)


def plain(value):
    """A value as JSON knows it."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        # Not-a-time is one of them, and has no form.
        return None if value != value else value.isoformat()
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, (numbers.Real, decimal.Decimal)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)


def frame_data(frame):
    """Columns by name, each a list; nothing where names would collide."""
    if frame.size > MAX_CELLS or not frame.columns.is_unique:
        return None
    return {str(name): [plain(cell) for cell in frame[name].tolist()] for name in frame.columns}


def is_figure(kind):
    names = ((base.__module__, base.__name__) for base in kind.__mro__)
    return ("matplotlib.figure", "Figure") in names


def figure_chart(figure):
    from e2b_charts import chart_figure_to_dict

    try:
        chart = chart_figure_to_dict(figure)
    except Exception:
        # A chart of a kind that cannot be taken apart is still a picture.
        return None
    return plain(chart) or None


def show_on_save(image_class):
    """`image.save("x.png")` also displays the image."""
    save = image_class.save

    def save_and_show(self, fp, format=None, **params):
        result = save(self, fp, format, **params)
        if isinstance(fp, (str, bytes)) or hasattr(fp, "__fspath__"):
            from IPython.display import display

            display(self)
        return result

    save_and_show.__doc__ = save.__doc__
    image_class.save = save_and_show


def write_in_pieces(stream_class):
    """Keeps the kernel from gathering a flood into one message."""
    write = stream_class.write

    def bounded(self, text):
        if not isinstance(text, str) or len(text) <= PIECE:
            count = write(self, text)
            waiting = getattr(self, "_waiting", 0) + len(text)
            self._waiting = 0 if waiting > PIECE else waiting
            if waiting > PIECE:
                self.flush()
            return count
        for start in range(0, len(text), PIECE):
            write(self, text[start : start + PIECE])
            self.flush()
        return len(text)

    bounded.__doc__ = write.__doc__
    stream_class.write = bounded


def flush_what_there_is(stream_class):
    """Spares the kernel six waits for another thread in every execution that prints
    nothing. What was taken from the buffers is ahead of all that is sent later, for
    one thread sends everything."""
    flush = stream_class.flush

    def flush_if_written(self):
        if getattr(self, "_buffers", True):
            flush(self)

    flush_if_written.__doc__ = flush.__doc__
    stream_class.flush = flush_if_written


def with_environment(kernel):
    """Environment variables that the server sends along with an execution, in the
    request's metadata: set for good, unset, or set for this execution alone."""
    execute = kernel.do_execute

    async def execute_with_environment(*arguments, **options):
        wish = kernel.get_parent().get("metadata", {}).get("hearth", {})
        for name in wish.get("unset", ()):
            os.environ.pop(name, None)
        os.environ.update(wish.get("set", {}))
        call = wish.get("call", {})
        before = {name: os.environ.get(name) for name in call}
        os.environ.update(call)
        try:
            reply = execute(*arguments, **options)
            return await reply if inspect.isawaitable(reply) else reply
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    kernel.do_execute = execute_with_environment


class AfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Calls a function with a module once it has been imported."""

    def __init__(self, name, then):
        self.name, self.then, self.spec = name, then, None

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        # The module shall not know that somebody listened.
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.then(module)


def after_import(name, then):
    if name in sys.modules:
        then(sys.modules[name])
    else:
        sys.meta_path.insert(0, AfterImport(name, then))


def load_ipython_extension(ip):
    data = DataFormatter(parent=ip.display_formatter)
    data.for_type_by_name("pandas.core.frame", "DataFrame", frame_data)
    data.for_type_by_name("pandas", "DataFrame", frame_data)
    chart = ChartFormatter(parent=ip.display_formatter)
    ip.display_formatter.formatters["e2b/data"] = data
    ip.display_formatter.formatters["e2b/chart"] = chart
    if hasattr(sys.stdout, "pub_thread"):
        write_in_pieces(type(sys.stdout))
        flush_what_there_is(type(sys.stdout))
    if hasattr(ip, "kernel"):
        with_environment(ip.kernel)
    after_import("PIL.Image", lambda module: show_on_save(module.Image))
