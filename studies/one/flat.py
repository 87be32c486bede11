"""Compare the roughness of samples from a student and from its teacher, sample by sample.

    python -m studies.one.flat photos-16 fd-efficientnet-lite0

Run this program in the folder in which the study has run for the dataset. It prints one row for
each of the three trainings. The columns are the root mean square difference between student and
teacher samples, the roughness of the student's samples divided by the roughness of the teacher's
samples, in the rough half and in the flat half of the samples, and the Fréchet distance of the
student's samples. The last column is the same distance after the teacher's samples have replaced
the student's samples in the flat half.
"""

import argparse

import numpy as np
import torch

import psld
from psld.sampling.shards import Shard


def samples(cell: str) -> np.ndarray:
    """Return the first 1,000 samples of a cell, N×C×H×W."""
    shards = (Shard.load(f"samples/one/{cell}/0000{index}.safetensors") for index in range(4))
    return np.concatenate([shard.images for shard in shards])


def roughness(images: np.ndarray) -> np.ndarray:
    """Return the mean squared difference of neighboring pixels of each image."""
    steps = (np.diff(images.astype(float), axis=axis) ** 2 for axis in (2, 3))
    return np.mean([each.mean(axis=(1, 2, 3)) for each in steps], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("metric", help="such as fd-classifier")
    options = parser.parse_args()
    print("| rms of 255 | rough half | flat half | distance | with the teacher's flat half |")
    print("|--:|--:|--:|--:|--:|")
    for seed in ("", "-seed1", "-seed2"):
        teacher = samples(f"{options.dataset}{seed}/teacher-10")
        student = samples(f"{options.dataset}-student{seed}/few-1")  # from the same initial images
        rms = np.mean((student.astype(float) - teacher) ** 2) ** 0.5
        ours, theirs = roughness(student), roughness(teacher)
        flat = theirs < np.median(theirs)
        rough, left = (ours[half].sum() / theirs[half].sum() for half in (~flat, flat))
        exchanged = np.where(flat[:, None, None, None], teacher, student)
        distances = [
            psld.evaluate(torch.from_numpy(images), options.dataset, options.metric).value
            for images in (student, exchanged)
        ]
        print(f"| {rms:.1f} | {rough:.2f} | {left:.1f} | {distances[0]:.0f} | {distances[1]:.0f} |")


if __name__ == "__main__":
    main()
