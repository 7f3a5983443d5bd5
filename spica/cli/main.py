"""The command `spica`: groups the verbs, turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

from spica import __version__
from spica.model.errors import SpicaError

VERBS = {
    "init": "setup",
    "migrate": "setup",
    "doctor": "setup",
    "person": "setup",
    "reference": "setup",
    "camera": "camera",
    "clean": "setup",
    "simulate": "demo",
    "demo": "demo",
    "warm": "demo",
    "ingest": "run",
    "calibration": "calibration",
    "schedule": "run",
    "daemon": "run",
    "web": "run",
    "status": "listing",
    "images": "listing",
    "stacks": "listing",
    "jobs": "listing",
    "nodes": "node",
    "why": "explain",
    "log": "explain",
    "report": "explain",
    "reproduce": "explain",
    "grade": "act",
    "regrade": "act",
    "reassess": "act",
    "restack": "restack",
    "retry": "act",
    "hold": "act",
    "unhold": "act",
    "cancel": "act",
}
"""Each verb and the module that holds it; only the module of the verb typed is imported."""


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all verbs in the order of a newcomer's day."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"spica.cli.{VERBS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="spica")
@click.option(
    "--workspace",
    type=click.Path(path_type=Path, file_okay=False),
    help="Workspace folder; by default SPICA_WORKSPACE, or this folder and its parents.",
)
@click.pass_context
def spica(ctx: click.Context, workspace: Path | None) -> None:
    """Turn a stream of survey exposures into graded, calibrated, stacked and delivered images.

    A first look: `spica demo`. Your own survey: `spica init`, `spica reference add`, `spica ingest --wait`,
    `spica schedule survey --wait`, `spica web`.
    """
    ctx.obj = workspace


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits 0, 1 bug, 2 usage, 3 job failed, 4 nothing to do, 5 surroundings."""
    try:
        code = spica.main(args=arguments, prog_name="spica", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.stderr.write("stopped waiting; jobs go on\n")
        sys.exit(130)
    except SpicaError as error:
        sys.stderr.write(f"spica: {error}\n")
        sys.exit(error.door_code)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"spica: {where}{error.strerror or error}; free the disk or mend the folder, then try again\n")
        sys.exit(5)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
