"""Print the seconds of each stage of a workflow, from Snakemake's metadata of output files.

python -m benchmarks.stages FOLDER
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the workflow ran")
    given = parser.parse_args()
    files = (given.folder / ".snakemake" / "metadata").rglob("*")
    records = [json.loads(file.read_text()) for file in files if file.is_file()]
    # Count each job once, although Snakemake writes one record for each output of the job.
    jobs = {(r["rule"], r["shellcmd"]): (r["starttime"], r["endtime"]) for r in records}
    stages = defaultdict(list)
    for (rule, _), times in jobs.items():
        stages[rule].append(times)
    begin = min(start for start, _ in jobs.values())
    print(f"{'stage':18} {'jobs':>5} {'seconds':>8} {'first':>7} {'last':>7}")
    for rule, times in sorted(stages.items(), key=lambda stage: min(stage[1])):
        total = sum(end - start for start, end in times)
        first, last = min(times)[0] - begin, max(end for _, end in times) - begin
        print(f"{rule:18} {len(times):5} {total:8.1f} {first:7.1f} {last:7.1f}")


if __name__ == "__main__":
    main()
