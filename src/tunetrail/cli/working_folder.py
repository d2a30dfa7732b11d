"""The folder that a command is called in, where its stores and results are by default."""

import os

from tunetrail.errors import UserError


def check_working_folder(*, by_hydra: bool) -> None:
    """Raise `UserError` if the working folder is gone, or has a name that Hydra misreads.

    Args:
        by_hydra: Whether Hydra composes the command's configuration, with the folder in it.
    """
    try:
        folder = os.getcwd()
    except FileNotFoundError as error:
        raise UserError(
            "the working folder must exist, but it was deleted. Go to another folder, or make it "
            "again and enter it."
        ) from error

    if by_hydra and "${" in folder:
        raise UserError(
            f"the working folder must have no ${{ in its path, got {folder!r}: Hydra takes it for "
            "a reference to a key. Rename the folder, or go to another one."
        )
