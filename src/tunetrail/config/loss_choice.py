"""Which loss a configuration means for samples of a shape, with its options and its teacher."""

from typing import TYPE_CHECKING

from tunetrail import extensions
from tunetrail.config.checks import check, check_choice
from tunetrail.config.losses import EMBEDDING_LOSSES, LOSSES, Loss, loss_named, losses_of
from tunetrail.errors import ConfigError

if TYPE_CHECKING:
    from tunetrail.config.embedding import LossConfig


def resolve_loss(shape: str, name: str, *, taught: bool = False) -> Loss:
    """Return the loss that a name means for samples of a shape: `auto` is resolved here only.

    Args:
        shape: Name of the samples' shape.
        name: A loss, or `auto`: the shape's first loss, with a teacher the first that has one.
        taught: Whether there is a teacher.

    Raises:
        ConfigError: The loss isn't one of the shape's.
    """
    if name == "auto":
        return LOSSES[losses_of(shape, taught=taught)[0]]

    is_known = name in LOSSES or name in extensions.LOSSES.names()
    if is_known and shape in loss_named(name).all_shapes:
        return loss_named(name)
    raise ConfigError(
        f"embedding.loss must be one of auto, {', '.join(losses_of(shape))} for {shape} samples, "
        f"got {name!r}."
    )


def choose_loss(shape: str, name: str, teacher: str | None = None) -> Loss:
    """Return the loss that a configuration means for samples of a shape.

    Args:
        shape: Name of the samples' shape.
        name: A loss, or `auto`.
        teacher: Name of the teacher, None if there is none.

    Raises:
        ConfigError: The loss doesn't fit the shape, needs a teacher, or has no use for one.
    """
    # First the shape: for a loss of another shape, advice about a teacher would mislead.
    if name != "auto":
        resolve_loss(shape, name)
    check_teacher(shape, name, teacher)

    return resolve_loss(shape, name, taught=teacher is not None)


def check_teacher(shape: str, name: str, teacher: str | None) -> None:
    """Raise `ConfigError` if the loss lacks the teacher it needs, or has one and no use for it."""
    taught_names = losses_of(shape, taught=True)
    is_taught = name != "auto" and shape in loss_named(name).taught_shapes
    if teacher is None:
        check(
            not is_taught,
            "embedding.teacher",
            f"a model's name or folder for the loss {name} on {shape} samples",
            teacher,
        )
        return

    names_by_shape = {shape: losses_of(shape, taught=True) for shape in EMBEDDING_LOSSES}
    choices = "; ".join(
        f"{shape}: {', '.join(names)}" for shape, names in names_by_shape.items() if names
    )
    check(
        is_taught or (name == "auto" and bool(taught_names)),
        "embedding.teacher",
        f"null for the loss {name} on {shape} samples",
        teacher,
        f"Losses that learn from a teacher are {choices}.",
    )


def check_loss_options(loss: Loss, options: "LossConfig") -> None:
    """Raise `ConfigError` for an option that this loss lacks, or a distance that it can't take."""
    # Ignored options would mislead: a sweep over one would compare equal trainings.
    for name, value in vars(options).items():
        check(
            value is None or name in loss.all_options,
            f"embedding.loss_options.{name}",
            f"null for the loss {loss.name}",
            value,
            f"Its options are {', '.join(loss.all_options)}.",
        )

    if options.distance is not None:
        field = f"embedding.loss_options.distance for the loss {loss.name}"
        check_choice(field, options.distance, loss.distances)
