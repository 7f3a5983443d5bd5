"""Runs one step on one attempt folder: `python -m spica.steps run|prepare|finish --attempt DIR`."""

from __future__ import annotations

import argparse
import resource
import sys
import time
import traceback
from pathlib import Path

from spica import __version__
from spica.files.jobfolder import read_inputs, read_request, write_result
from spica.model.errors import SpicaError
from spica.model.job import ExitCode, Failure, Inputs, Request, Result
from spica.steps.base import StepContext, find_step, recipe_of


def main(arguments: list[str] | None = None) -> int:
    """Run one phase of a step; return its exit code. A result is written at the end, and for every failure."""
    parser = argparse.ArgumentParser(prog="python -m spica.steps", description=__doc__)
    parser.add_argument("phase", choices=("run", "prepare", "finish"))
    parser.add_argument("--attempt", required=True, type=Path, help="attempt folder, with inputs.json in it")
    options = parser.parse_args(arguments)
    folder: Path = options.attempt.resolve()
    started = time.monotonic()
    request, inputs = read_request(folder), read_inputs(folder)
    context = StepContext(folder, request, inputs, recipe_of(request))
    for outcome in inputs.left_out:
        context.outcomes.append(outcome)
    failure, code = _run_phase(context, options.phase)
    if options.phase != "prepare" or failure is not None:
        write_result(folder, _result(context, request, inputs, code, failure, time.monotonic() - started))
    if failure is not None:
        sys.stderr.write(f"{failure.kind}: {failure.text}\n")
    return int(code)


def _run_phase(context: StepContext, phase: str) -> tuple[Failure | None, ExitCode]:
    """Run the phase; the one place where every exception is caught."""
    try:
        step = find_step(context.request.kind, context.request.engine)
        action = getattr(step, phase)
        action(context)
        if phase != "prepare":
            context.check_floor()
    except SpicaError as error:
        return Failure(error.kind, str(error)), ExitCode(error.exit_code)
    except OSError as error:
        traceback.print_exc()
        return Failure("transient", f"{error.strerror or error}: free the disk or mend the folder"), ExitCode.TRANSIENT
    except MemoryError:
        return Failure("memory", "memory was too little; the job is tried again with more"), ExitCode.TRANSIENT
    except Exception as error:  # noqa: BLE001  the step runner is one of the three doors of last resort
        traceback.print_exc()
        return Failure("bug", f"{type(error).__name__}: {error}; report this log"), ExitCode.BUG
    return None, ExitCode.DONE


def _result(
    context: StepContext, request: Request, inputs: Inputs, code: ExitCode, failure: Failure | None, seconds: float
) -> Result:
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Result(
        job=inputs.job,
        attempt=inputs.attempt,
        fence=inputs.fence,
        kind=request.kind,
        engine=request.engine,
        version=__version__,
        exit_code=int(code),
        products=tuple(context.products) if failure is None else (),
        outcomes=tuple(context.outcomes),
        records=tuple(context.records) if failure is None else (),
        measures=context.measures,
        failure=failure,
        seconds=seconds,
        peak_memory_mb=usage / 1024.0,
    )


if __name__ == "__main__":
    sys.exit(main())
