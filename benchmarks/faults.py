"""Forty planted faults, and what the explanation says first: ``faults.py [FAULT …] [--net KIND] [-v]``.

Nets are trained on digits, flawed by a transformation of the graph, the data, the plan or the target's scheme, and quantised as
``edgebuild --int8`` does. The explanation gets what a user has: the graph, calibration data, data as in use.
"""

import argparse
import sys
import time
import warnings

from faults.run import PLAN, run
from workbench import show


def main() -> int:
    """Prints the table and how many explanations name the right layer or cause first; 1 if it is fewer than 38 of 40."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="only these")
    parser.add_argument("--net", help="only nets of this kind")
    parser.add_argument(
        "--seeds", type=int, default=0, metavar="N", help="add N to every seed: other nets, other places"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show the first three findings of what went wrong")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    cases = [case for case in PLAN if (not given.faults or case[0] in given.faults) and given.net in (None, case[1])]
    rows, verdicts = [], []
    for case in cases:
        start = time.monotonic()
        verdict = run(case[0], case[1], case[2] + given.seeds)
        verdicts.append(verdict)
        sums = verdict.analysis.sum / verdict.analysis.total
        rows.append(
            [
                verdict.fault,
                verdict.net,
                f"{verdict.sqnr_db:.1f} dB",
                f"{sums:.1%}",
                "right" if verdict.right else "WRONG",
                "yes" if verdict.layer_right else "-" if not verdict.layers else "no",
                "yes" if verdict.cause_right else "no",
                f"{verdict.first.cause}: {verdict.first.where}",
            ]
        )
        print(f"{len(rows)}/{len(cases)} {' '.join(rows[-1])} ({time.monotonic() - start:.0f} s)", file=sys.stderr)
        if given.verbose and not verdict.right:
            print(f"    planted in {', '.join(sorted(verdict.layers)) or 'the data'}", file=sys.stderr)
            for finding in verdict.analysis.findings[:4]:
                print(
                    f"    {finding.cause}, {finding.share}: {finding.where} {finding.layers}: {finding.detail}",
                    file=sys.stderr,
                )
    show(
        "planted faults",
        ["fault", "net", "signal", "sum", "first", "layer", "cause", "the explanation says first"],
        rows,
    )
    right = sum(verdict.right for verdict in verdicts)
    print(f"\n{right} of {len(verdicts)} name the right layer or cause first; wanted: 38 of 40")
    return 0 if right >= len(verdicts) - 2 else 1


if __name__ == "__main__":
    sys.exit(main())
