"""A second transcription of the paper's numbers and settings, for comparison with the grid.

A number of the paper is (dataset, Γ, millions of parameters, sampler, budget, samples, column,
value), with Γ = None for VP-SDE. The column is `nfe` (network evaluations) or the metric.
"""

Number = tuple[str, float | None, int, str, float, int, str, float]

CIFAR, CELEBA, AFHQ = "cifar10", "celeba64", "afhqv2-128"
VP = None


def both(cell: tuple, fid: float, nfe: int) -> list[Number]:
    return [(*cell, "fid", fid), (*cell, "nfe", nfe)]


def flat(numbers: list[list[Number]]) -> list[Number]:
    return [number for pair in numbers for number in pair]


TABLE1 = {(0, 97): 2.41, (0.02, 39): 2.80, (0.01, 55): 2.34}
TABLE1 |= {(0.02, 55): 2.30, (0.01, 97): 2.23, (0.02, 97): 2.21}
TABLE2 = {
    (0, 97, 1e-5): (2.80, 352),
    (0.01, 55, 1e-5): (2.41, 243),
    (0.02, 55, 1e-5): (2.40, 232),
    (0.01, 97, 1e-5): (2.10, 246),
    (0.02, 97, 1e-5): (2.31, 231),
    (0.01, 97, 1e-4): (2.13, 159),
    (0.02, 97, 1e-4): (2.34, 159),
}
TABLE3 = {("em-quadratic", 250): (2.01, 250), ("rk45", 1e-5): (2.56, 244)}
FRICTIONS = (0, 0.005, 0.01, 0.02, 0.25)
TABLE4 = {
    (CIFAR, 39, "em-quadratic", 50_000): (3.64, 3.42, 3.15, 3.26, 4.99),
    (CIFAR, 39, "em-uniform", 50_000): (3.60, 3.34, 2.94, 2.80, 9.48),
    (CELEBA, 66, "em-quadratic", 10_000): (4.59, 4.17, 4.22, 4.43, 93.99),
    (CELEBA, 66, "em-uniform", 10_000): (4.60, 4.37, 4.34, 4.52, 95.13),
}
TEXT4 = {0.04: 2.95, VP: 3.19}
STEPS = (50, 100, 250, 500, 1000)
TABLE5 = {
    ("em-quadratic", 0): (25.01, 8.91, 5.97, 5.61, 5.7),
    ("em-quadratic", VP): (17.72, 7.45, 5.59, 5.51, 5.51),
    ("em-quadratic", 0.02): (19.94, 7.33, 5.26, 5.20, 5.28),
    ("em-uniform", 0): (119.68, 45.60, 9.08, 5.71, 5.65),
    ("em-uniform", VP): (84.54, 41.93, 12.61, 5.92, 5.19),
    ("em-uniform", 0.02): (100.62, 39.96, 11.26, 5.45, 4.82),
    ("sscs-quadratic", 0): (21.31, 8.37, 5.82, 5.75, 5.69),
    ("sscs-quadratic", 0.02): (16.12, 7.16, 5.36, 5.35, 5.27),
    ("sscs-uniform", 0): (75.45, 24.74, 6.09, 5.74, 5.78),
    ("sscs-uniform", 0.02): (72.42, 20.46, 5.19, 4.92, 5.29),
}
TABLE6 = {
    0: ((5.54, 280), (5.62, 196), (6.54, 147), (9.98, 86), (397.1, 27)),
    0.02: ((4.79, 228), (4.84, 158), (5.09, 111), (16.11, 69), (418.77, 27)),
    VP: ((5.91, 123),),
}
TABLE7 = {0: (1.01, 7.10), 0.01: (0.85, 6.93)}
SPLITS = (
    ("em-quadratic-inpainting-train", 250, 14_336, "fid-train"),
    ("em-quadratic-inpainting-test", 250, 1_467, "fid-test"),
)

TRANSCRIBED: dict[str, list[Number]] = {
    "table1": flat(
        [
            both((CIFAR, *cell, "em-uniform", 1000, 50_000), fid, 1000)
            for cell, fid in TABLE1.items()
        ]
    ),
    "table2": flat(
        [
            both((CIFAR, gamma, size, "rk45", tolerance, 50_000), *values)
            for (gamma, size, tolerance), values in TABLE2.items()
        ]
    ),
    "table2-text": [(CIFAR, 0.01, 97, "rk45", 1e-5, 50_000, "inception-score", 9.93)],
    "table3": flat(
        [both((CELEBA, 0.005, 62, *cell, 50_000), *values) for cell, values in TABLE3.items()]
    ),
    "table4": [
        (dataset, gamma, size, sampler, 1000, samples, "fid", value)
        for (dataset, size, sampler, samples), values in TABLE4.items()
        for gamma, value in zip(FRICTIONS, values, strict=True)
    ],
    "table4-text": [(CIFAR, g, 39, "em-uniform", 1000, 50_000, "fid", v) for g, v in TEXT4.items()],
    "table5": [
        (CIFAR, gamma, 39, sampler, steps, 10_000, "fid", value)
        for (sampler, gamma), values in TABLE5.items()
        for steps, value in zip(STEPS, values, strict=True)
    ],
    "table6": flat(
        [
            both((CIFAR, gamma, 39, "rk45", 10.0**log, 10_000), *values)
            for gamma, pairs in TABLE6.items()
            for log, values in zip((-5, -4, -3, -2, -1), pairs, strict=False)
        ]
    ),
    "table7": [
        (AFHQ, gamma, 128, *split, value)
        for gamma, values in TABLE7.items()
        for split, value in zip(SPLITS, values, strict=True)
    ],
}

ODE = "with the ODE at the same tolerance"
CONTRADICTED = (
    ("The ODE is better than the SDE with the same weights", "0.02"),
    ("EM-US is better than EM-QS at 1000 NFE on CIFAR-10", "psld-0.25"),
    ("PSLD is better than CLD across all comparison points", "em-uniform, 250"),
    ("PSLD is better than VP-SDE across all comparison points", "em-quadratic, 50"),
    ("PSLD is better than VP-SDE across all comparison points", "em-uniform, 50"),
    ("Quadratic striding is better than uniform striding up to 250 NFE", "psld-0.02, 250"),
    ("Uniform striding is better than quadratic striding above 500 NFE", "cld"),
    ("Uniform striding is better than quadratic striding above 500 NFE", "psld-0.02"),
    (
        "SSCS is better than EM up to 250 NFE, for most settings",
        "psld-0.02, quadratic, 250",
    ),
    ("EM is better than SSCS above 250 NFE, for most settings", "cld, quadratic, 1000"),
    (
        "EM is better than SSCS above 250 NFE, for most settings",
        "psld-0.02, quadratic, 1000",
    ),
    ("EM is better than SSCS above 250 NFE, for most settings", "psld-0.02, uniform, 500"),
    (f"PSLD is better than CLD {ODE}", "1e-2"),
    (f"PSLD is better than CLD {ODE}", "1e-1"),
    (f"PSLD needs fewer network evaluations than CLD {ODE}", "1e-1"),  # 27 and 27
)
"""The claims and comparisons that the paper's own numbers contradict."""
AGAIN = (
    ("PSLD is better than CLD", "em-uniform, 250"),
    ("PSLD is better than VP-SDE", "em-quadratic, 50"),
    ("SSCS is better than EM up to 250 NFE", "psld-0.02, 250"),
)
"""The contradicted claims of the grid with three trainings."""

LITERATURE = {
    "table1": (2.27, 2.46, 2.43, 3.17, 2.90, 2.80, 10.87, 25.32, 7.41),
    "table2": (4.60, 2.10, 2.76, 2.71, 2.25, 5.34, 6.35, 3.15, 2.05),
    "table3": (2.71, 4.44, 2.32, 2.92, 3.26, 3.97, 3.95, 25.3, 10.23),
    "table4-text": (3.56,),
}

SIZES = {
    "cifar10-ablation": {39.40, 39.39},
    "cifar10-55m": {55.74},
    "cifar10-sota": {97.63, 97.62},
    "celeba64-ablation": {66.72},
    "celeba64-sota": {62.77},
    "afhqv2-ablation": {65.82},
    "afhqv2-sota": {128.45},
}
"""Millions of parameters. The second, smaller size belongs to CLD and VP-SDE, which predict half as
many channels as PSLD."""

ABLATIONS = {
    "cifar10-vp-sde": "cifar10-vp-sde",
    "celeba64-vp-sde": "celeba64-cld",
    "afhqv2-vp-sde": "afhqv2-ablation-psld-0.01",
}
"""For each denoiser, a model of the paper with the same network and number of training steps."""

IMAGES = {CIFAR: 50_000, CELEBA: 202_599, AFHQ: 14_336}

TRAININGS = {
    "cifar10-ablation": (128, 2000, 2e-4, 0.1),
    "cifar10-55m": (128, 2500, 2e-4, 0.1),
    "cifar10-sota": (128, 2500, 2e-4, 0.15),
    "celeba64-ablation": (128, 200, 2e-4, 0.1),
    "celeba64-sota": (128, 500, 2e-4, 0.1),
    "afhqv2-ablation": (64, 2000, 1e-4, 0.2),
    "afhqv2-sota-psld": (64, 2500, 1e-4, 0.2),
    "afhqv2-sota-cld": (64, 2000, 1e-4, 0.2),
    "guide-cifar10": (256, 2000, 2e-4, 0.1),
    "guide-afhqv2": (64, 2000, 2e-4, 0.1),
}
"""Batch, epochs, learning rate, dropout."""

STOPPED = {
    "cifar10-97m-psld-0.01": 2249,
    "cifar10-97m-psld-0.02": 2349,
    "afhqv2-ablation-psld-0.01": 1749,
    "afhqv2-psld-0.01": 2249,
    "guide-cifar10": 999,
    "guide-afhqv2": 299,
}
"""The epoch, counted from 0, that the official sampling scripts load, if it is not the last."""
