"""The training methods by name."""

from __future__ import annotations

from dpaat.methods.amat import AMAT, AMATOptions
from dpaat.methods.cat import CAT, CATOptions
from dpaat.methods.controls import ClassMeanRadius, MeanFast, MeanRadius, PermutedFast, PermutedRadius, UniformRadius
from dpaat.methods.dart import DART, DARTOptions
from dpaat.methods.dpaat import DPAAT, DPAATOptions, PaperOptions
from dpaat.methods.dpaat_fast import DPAATFast, FastOptions, LateOptions
from dpaat.methods.fast import FGSMRS, NFGSM, NFGSMOptions
from dpaat.methods.fat import FAT, FATOptions
from dpaat.methods.gairat import GAIRAT, GAIRATOptions
from dpaat.methods.iaat import IAAT, IAATOptions
from dpaat.methods.ima import AME, IMA, AMEOptions, IMAOptions
from dpaat.methods.info import FIXED, LARGEST, MethodInfo
from dpaat.methods.mart import MART, MARTOptions
from dpaat.methods.mma import MMA, MMAOptions
from dpaat.methods.pgd import PGDTraining
from dpaat.methods.robustlt import RobustLT, RobustLTOptions
from dpaat.methods.standard import Standard
from dpaat.methods.taet import TAET, TAETOptions
from dpaat.methods.trades import TRADES, TRADESOptions

METHODS: dict[str, MethodInfo] = {
    info.name: info
    for info in (
        MethodInfo("standard", Standard, "clean images only", "3 F", adversarial=False),
        MethodInfo(
            "pgd",
            PGDTraining,
            "adversarial training with one fixed radius (Madry et al. 2018)",
            "(2K + 3) F",
            eps=FIXED,
        ),
        MethodInfo(
            "fgsm-rs",
            FGSMRS,
            "one attack step from a random start (Wong et al. 2020)",
            "5 F",
            eps=FIXED,
        ),
        MethodInfo(
            "n-fgsm",
            NFGSM,
            "one attack step from strong noise, not projected (de Jorge et al. 2022)",
            "5 F",
            eps=FIXED,
            options=NFGSMOptions,
        ),
        MethodInfo(
            "trades",
            TRADES,
            "clean loss, and how far an attack moves the output (Zhang et al. 2019)",
            "(2K + 7) F",
            eps=FIXED,
            options=TRADESOptions,
        ),
        MethodInfo(
            "mart",
            MART,
            "misclassified images are pulled harder (Wang et al. 2020)",
            "(2K + 6) F",
            eps=FIXED,
            options=MARTOptions,
        ),
        MethodInfo(
            "fat",
            FAT,
            "the attack stops soon after it has succeeded (Zhang et al. 2020)",
            "(2K + 3) F",
            eps=FIXED,
            options=FATOptions,
        ),
        MethodInfo(
            "gairat",
            GAIRAT,
            "images that an attack turns quickly weigh more (Zhang et al. 2021)",
            "(2K + 3) F",
            eps=FIXED,
            options=GAIRATOptions,
        ),
        MethodInfo(
            "dart",
            DART,
            "the attack has to converge better from epoch to epoch (Wang et al. 2019)",
            "(2K + 3) F",
            eps=FIXED,
            options=DARTOptions,
        ),
        MethodInfo(
            "iaat",
            IAAT,
            "a radius per sample, by whether it withstands a slightly larger one (Balaji et al. 2019)",
            "(6K + 5) F",
            eps=LARGEST,
            moves_radius=True,
            options=IAATOptions,
        ),
        MethodInfo(
            "cat",
            CAT,
            "a radius per sample that grows at every visit it withstands, and softer labels (Cheng et al. 2022)",
            "(2K + 3) F",
            eps=LARGEST,
            moves_radius=True,
            options=CATOptions,
        ),
        MethodInfo(
            "mma",
            MMA,
            "images are learned at the decision boundary (Ding et al. 2020)",
            "(2K + 17) F",
            eps=LARGEST,
            moves_radius=True,
            options=MMAOptions,
        ),
        MethodInfo(
            "ima",
            IMA,
            "a radius per sample that grows until the boundary is met (Ma, Liang 2020)",
            "(2K + 17) F",
            eps=LARGEST,
            moves_radius=True,
            options=IMAOptions,
        ),
        MethodInfo(
            "ame",
            AME,
            "as ima, in smaller and smaller increments (Ma, Liang 2023)",
            "(2K + 17) F",
            eps=LARGEST,
            moves_radius=True,
            options=AMEOptions,
        ),
        MethodInfo(
            "amat",
            AMAT,
            "as ima, against a threshold from the run's clean losses (after Ma, Liang 2022)",
            "(2K + 17) F",
            eps=LARGEST,
            moves_radius=True,
            options=AMATOptions,
        ),
        MethodInfo(
            "taet",
            TAET,
            "clean first, then adversarial losses equalized over the classes (Wang et al. 2025)",
            "(2K + 3) F",
            eps=FIXED,
            options=TAETOptions,
        ),
        MethodInfo(
            "robustlt",
            RobustLT,
            "a radius per class, larger for rare ones (Zhang et al. 2026)",
            "(2K + 3) F",
            eps=FIXED,
            options=RobustLTOptions,
        ),
        MethodInfo(
            "dpaat",
            DPAATFast,
            "a radius per sample, against its class's clean losses; from the middle of the training on, mostly clean",
            "(0.15K + 3) F",
            eps=4 / 255,
            moves_radius=True,
            clean_weight=0.85,
            in_turn=True,
            options=LateOptions,
        ),
        MethodInfo(
            "dpaat-half",
            DPAAT,
            "a radius per sample, against its class's mean clean loss; half clean, half adversarial",
            "(2K + 3) F",
            eps=LARGEST,
            moves_radius=True,
            clean_weight=0.5,
            options=DPAATOptions,
        ),
        MethodInfo(
            "dpaat-fast",
            DPAATFast,
            "dpaat-half with one view of a sample a visit, and attack steps in proportion to its radius",
            "(K + 3) F",
            eps=LARGEST,
            moves_radius=True,
            clean_weight=0.5,
            in_turn=True,
            options=FastOptions,
        ),
        MethodInfo(
            "dpaat-paper",
            DPAAT,
            "a radius per sample, against the mean of all adversarial losses (plain reading of arXiv 2403.06798)",
            "(2K + 3) F",
            eps=LARGEST,
            moves_radius=True,
            options=PaperOptions,
        ),
        MethodInfo(
            "uniform-radius",
            UniformRadius,
            "control: a radius drawn anew at every visit",
            "(2K + 3) F",
            eps=LARGEST,
            moves_radius=True,
            clean_weight=0.5,
        ),
        MethodInfo(
            "mean-radius",
            MeanRadius,
            "control: every sample at DPAAT's mean size",
            "(4K + 4) F",
            eps=LARGEST,
            moves_radius=True,
            clean_weight=0.5,
            options=DPAATOptions,
        ),
        MethodInfo(
            "class-mean-radius",
            ClassMeanRadius,
            "control: every sample at its class's mean size",
            "(4K + 4) F",
            eps=LARGEST,
            moves_radius=True,
            clean_weight=0.5,
            options=DPAATOptions,
        ),
        MethodInfo(
            "permuted-radius",
            PermutedRadius,
            "control: DPAAT's sizes permuted within the class",
            "(4K + 4) F",
            eps=LARGEST,
            moves_radius=True,
            clean_weight=0.5,
            options=DPAATOptions,
        ),
        MethodInfo(
            "mean-radius-fast",
            MeanFast,
            "control: dpaat-fast with every sample at its mean size",
            "(2K + 4) F",
            eps=LARGEST,
            moves_radius=True,
            clean_weight=0.5,
            in_turn=True,
            options=FastOptions,
        ),
        MethodInfo(
            "permuted-radius-fast",
            PermutedFast,
            "control: dpaat-fast with its sizes permuted within the class",
            "(2K + 4) F",
            eps=LARGEST,
            moves_radius=True,
            clean_weight=0.5,
            in_turn=True,
            options=FastOptions,
        ),
    )
}
