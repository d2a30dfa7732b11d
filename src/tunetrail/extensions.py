"""Extensions: what installed packages add to tunetrail, found by their entry points.

A package's metadata tells the names. The package itself is imported only when a configuration, a
file or a command uses one of them, and a configuration can name nothing that isn't installed.
"""

import dataclasses
import functools
import importlib
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunetrail.errors import ConfigError, one_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

logger = logging.getLogger(__name__)

_OURS = "tunetrail"
# A name becomes a part of keys, of file names and of MLflow's metrics.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True)
class ExtensionPoint:
    """One kind of extension, and what an entry point of its group must be.

    The paths are looked up when they are needed, as an entry point is: the layers that they lead to
    stand above this one, and some of them import torch.

    Attributes:
        group: The group of entry points.
        noun: What an extension is called in messages.
        record: Path of the class that its object is an instance of, or derives from.
        is_taken: Path of the function that tells whether tunetrail has the name itself.
        is_class: Whether the object is a class that derives from `record`.
    """

    group: str
    noun: str
    record: str
    is_taken: str
    is_class: bool = False

    def names(self) -> tuple[str, ...]:
        """Return the names that installed packages add, in alphabetical order; imports none."""
        return tuple(sorted({extension.name for extension in self.extensions()}))

    def extensions(self) -> list["Extension"]:
        """Return the extensions of all installed packages."""
        entries = _installed(tuple(sys.path)).get(self.group, ())
        return [Extension(point=self, entry_point=entry) for entry in entries]

    def packages(self, name: str) -> str:
        """Return the installed packages that add a name, with their versions, for people."""
        named = [extension for extension in self.extensions() if extension.name == name]
        return ", ".join(f"{extension.package} {extension.version}" for extension in named)

    def packages_of(self, name: str) -> list[str]:
        """Return the packages that have a name, tunetrail first if it is one of its own."""
        ours = [_OURS] if _resolved(self.is_taken)(name) else []
        return ours + [entry.package for entry in self.extensions() if entry.name == name]

    def check_unique(self, name: str) -> None:
        """Raise `ConfigError` for a name that more than one package has."""
        if name not in self.names():
            return
        packages = self.packages_of(name)
        if len(packages) > 1:
            raise ConfigError(
                f"the {self.noun} {name!r} must come from one package, got "
                f"{' and '.join(packages)}. Uninstall one of them, or ask its author for another "
                "name."
            )

    def load(self, name: str) -> Any:
        """Return the object of an installed extension.

        Raises:
            ConfigError: The name isn't installed, is in several packages, or its package is broken.
        """
        self.check_unique(name)
        for extension in self.extensions():
            if extension.name == name:
                return extension.load()
        raise ConfigError(
            f"the {self.noun} {name!r} must come from an installed package, got none. "
            "Install the package; `tunetrail doctor` lists what is installed."
        )

    def load_all(self) -> list[Any]:
        """Return the objects of all installed extensions, by name.

        One that can't be used is left out, with one warning in a process: a broken package must not
        stop the work with others.
        """
        path = tuple(sys.path)
        loaded = [_loaded_or_none(self, name, path) for name in self.names()]
        return [extension for extension in loaded if extension is not None]


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What an installed package adds under a name.

    Attributes:
        point: The kind of extension.
        entry_point: The line of the package's metadata.
    """

    point: ExtensionPoint
    entry_point: "EntryPoint"

    @property
    def name(self) -> str:
        """The name by which a configuration uses it."""
        return self.entry_point.name

    @property
    def package(self) -> str:
        """The name of the package."""
        return self.entry_point.dist.name if self.entry_point.dist else "?"

    @property
    def version(self) -> str:
        """The version of the package."""
        return self.entry_point.dist.version if self.entry_point.dist else "?"

    def load(self) -> Any:
        """Return the extension's object; raises `ConfigError` if the package is broken."""
        try:
            loaded = self._checked(self.entry_point.load())
        # The import runs the package's own code, which may raise anything, or try to exit.
        except (Exception, SystemExit) as error:
            # The command line ends with 128 + n after signal n: nothing is wrong with the package.
            if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
                raise
            reason = str(error) if isinstance(error, ConfigError) else one_line(error)
            raise ConfigError(
                f"the {self.point.noun} {self.name!r} of the package {self.package} {self.version} "
                f"can't be used: {reason.removesuffix('.')}. Update or uninstall the package."
            ) from error
        return loaded

    def problem(self) -> str | None:
        """Return why it can't be used; None if it can."""
        try:
            self.point.check_unique(self.name)
            self.load()
        except ConfigError as error:
            return str(error)
        return None

    def _checked(self, loaded: Any) -> Any:
        """Return the object of the entry point, if it is what the group asks for."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError("its name must be letters, digits and '_', beginning with a letter")

        record = _resolved(self.point.record)
        article = "a class that derives from" if self.point.is_class else "an instance of"
        is_class = isinstance(loaded, type)
        fits = (
            is_class and issubclass(loaded, record)
            if self.point.is_class
            else isinstance(loaded, record)
        )
        if not fits:
            raise ConfigError(f"it must be {article} {record.__name__}, got {loaded!r}")

        # Or a configuration would use one name, and results would show the other.
        own_name = getattr(loaded, "name", self.name)
        if not is_class and own_name != self.name:
            raise ConfigError(f"its record must have the entry point's name, got {own_name!r}")
        options_class = getattr(loaded, "options_class", None)
        if options_class is not None and not dataclasses.is_dataclass(options_class):
            raise ConfigError(f"its options_class must be a dataclass, got {options_class!r}")
        return loaded


METRICS = ExtensionPoint(
    group="tunetrail.metrics",
    noun="metric",
    record="tunetrail.evaluation.metric:ExampleMetric",
    is_taken="tunetrail.evaluation.metrics:is_reserved",
)
LOSSES = ExtensionPoint(
    group="tunetrail.losses",
    noun="loss",
    record="tunetrail.config.losses:Loss",
    is_taken="tunetrail.config.losses:is_built_in",
)
AUGMENTATION = ExtensionPoint(
    group="tunetrail.augmentation",
    noun="augmentation method",
    record="tunetrail.data.augmentation.method:AugmentationMethod",
    is_taken="tunetrail.data.augmentation.method:is_built_in",
)
FORMATS = ExtensionPoint(
    group="tunetrail.formats",
    noun="file format",
    record="tunetrail.data.formats.file_format:FileFormat",
    is_taken="tunetrail.data.formats.reading:is_built_in",
)
CALLBACKS = ExtensionPoint(
    group="tunetrail.callbacks",
    noun="callback",
    record="pytorch_lightning:Callback",
    is_taken="tunetrail.learning.named_classes.callbacks:is_built_in_callback",
    is_class=True,
)
LOGGERS = ExtensionPoint(
    group="tunetrail.loggers",
    noun="logger",
    record="pytorch_lightning.loggers:Logger",
    is_taken="tunetrail.learning.named_classes.loggers:is_built_in_logger",
    is_class=True,
)
FAMILIES = ExtensionPoint(
    group="tunetrail.families",
    noun="model family",
    record="tunetrail.pipeline.model_family:ModelFamily",
    is_taken="tunetrail.pipeline.families:is_built_in",
)

POINTS = (METRICS, LOSSES, AUGMENTATION, FORMATS, CALLBACKS, LOGGERS, FAMILIES)
"""Everything that a package can add."""


def installed_extensions() -> Iterator[Extension]:
    """Yield what the installed packages add, by kind; imports none of them."""
    for point in POINTS:
        yield from point.extensions()


@functools.lru_cache(maxsize=4)
def _installed(paths: tuple[str, ...]) -> "dict[str, tuple[EntryPoint, ...]]":
    """Return the entry points by group of the packages on the paths of modules."""
    # Reading all packages' metadata takes some 30 ms: once, and only for who asks for a name.
    from importlib.metadata import entry_points

    every_entry_point = entry_points()
    return {point.group: tuple(every_entry_point.select(group=point.group)) for point in POINTS}


@functools.cache
def _loaded_or_none(point: ExtensionPoint, name: str, paths: tuple[str, ...]) -> Any:
    """Return the object of an extension; None, with a warning, if it can't be used."""
    try:
        return point.load(name)
    except ConfigError as error:
        logger.warning("%s", error)
        return None


@functools.cache
def _resolved(path: str) -> Any:
    """Return the object of one of our own paths."""
    module, _, names = path.partition(":")
    return functools.reduce(getattr, names.split("."), importlib.import_module(module))
