"""Certificates that were tampered with: twenty tamperings, and forgeries with right digests."""

import json

import numpy as np
import pytest
from tests.report.certificates.conftest import verify
from tests.report.tampering import TAMPERINGS, entries_of, rewritten, written

from psld.grid import paths
from psld.report.verification import Verification
from tests.commands import refused
from tests.report.certified import CELLS
from tests.results import sealed


@pytest.mark.parametrize("seed", range(20))
def test_twenty_tamperings_are_refused_with_the_entry_named(certificate, tmp_path, seed):
    random = np.random.default_rng(seed)
    tamper = TAMPERINGS[seed % len(TAMPERINGS)]
    tampered, entry = tamper(certificate, random)
    assert tampered != certificate
    finished = verify(tmp_path, tampered)
    assert finished.returncode in (1, 2)
    assert entry in finished.stdout + finished.stderr
    refused(finished, finished.returncode, "0.zip")


def test_a_forgery_with_all_digests_corrected_is_found_by_recomputing(certificate, tmp_path):
    """Other features, and the result says that it was computed from them."""
    entries = entries_of(certificate)
    name = paths.cell_result("mine", "vp-sde/em-20")

    def change(arrays):
        arrays["fd-classifier/60/values"][:, 0] += 1

    entries[paths.kept(name)], digest = rewritten(entries[paths.kept(name)], change)
    content = json.loads(entries[name])
    for result in content["results"]:
        result["kept_sha256"] = digest
    entries[name] = sealed(content).encode()
    finished = verify(tmp_path, written(entries, with_digests=True))
    refused(finished, 1, "0.zip", "do not hold")
    wrong = [line for line in finished.stdout.splitlines() if line.startswith("wrong: ")]
    assert any(f"{name}: 0.estimate.value is " in line for line in wrong)
    assert any("mine.csv: VP-SDE, 20, distance: ours is " in line for line in wrong)
    assert not any("em-10" in line or "guided" in line for line in wrong)
    # The three numbers of the cell, and that of the other one, of which the rank is another.
    assert "0.zip: mine: 4 hold, 4 wrong, 4 not run" in finished.stdout


def test_bits_of_an_image_that_were_changed_are_found(certificate, tmp_path):
    """With the digests corrected, that of the shard too."""
    entries = entries_of(certificate)
    name = "results/cells/mine/vp-sde/likelihood/00001.json"
    content = json.loads(entries[name])
    content["bits"][2] += 0.1
    entries[name] = sealed(content).encode()
    finished = verify(tmp_path, written(entries, with_digests=True))
    refused(finished, 1, "do not hold")
    assert "vp-sde/likelihood.json: bits_per_dimension is" in finished.stdout
    assert "0.zip: bits: 1 wrong, 1 not run" in finished.stdout


def test_no_stored_number_is_read_to_recompute(certificate, tmp_path):
    """With all numbers of all results and tables doctored, the recomputed ones are the same."""
    entries = entries_of(certificate)
    for name in entries:
        if name in [paths.cell_result("mine", cell) for cell in CELLS]:
            content = json.loads(entries[name])
            for result in content["results"]:
                result["estimate"] |= {"value": 7.0, "without_block": [7.0] * 20}
                result |= {"floor": 7.0, "noise": 7.0, "nfe": 7.0, "sampling_seconds": 7.0}
            entries[name] = sealed(content).encode()
    results = []
    for number, content in enumerate((certificate, written(entries, with_digests=True))):
        file, folder = tmp_path / f"{number}.zip", tmp_path / str(number)
        file.write_bytes(content)
        made = Verification(file, folder).results
        results.append({p.relative_to(made): p.read_text() for p in made.rglob("*.json")})
    assert len(results[0]) == len(CELLS) + 1, "a likelihood"
    assert results[0] == results[1]
