"""`python -m tests.faults`: the long campaign (`make chaos SEED=n`)."""

import argparse
import sys
from pathlib import Path

from .breaks import BREAKS
from .campaign import CampaignError, run
from .plan import SHORT, Plan
from .report import SLACK_S

TICKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "ticks"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--break", dest="broken", choices=sorted(BREAKS))
    parser.add_argument("--short", action="store_true", help="the version that runs in `make test`")
    a = parser.parse_args()
    if not TICKS.is_dir():
        print("no ../shared/data/ticks beside the checkout: simulated ticks alone", flush=True)
    try:
        report = run(
            a.seed,
            SHORT if a.short else Plan(),
            broken=a.broken,
            ticks=TICKS if TICKS.is_dir() else None,
            say=lambda line: print(line, flush=True),
        )
    except CampaignError as error:
        print(f"seed {a.seed}: {error}", file=sys.stderr)
        return 1
    written = report.write()
    print(f"\n{report.table()}\n\n{written}")
    paused = report.slowest_s > SLACK_S and not a.short
    return 0 if report.verdict.clean and not report.failures and not paused else 1


if __name__ == "__main__":
    sys.exit(main())
