from dpaat.methods.base import AdversarialTraining, Standard
from dpaat.methods.registry import Cost, register_method

register_method("standard", "clean images only", cost=Cost(), eps=0.0, adversarial=False)(Standard)


@register_method("pgd", "adversarial training with one fixed radius", "Madry et al., ICLR 2018, arXiv 1706.06083")
class PGDTraining(AdversarialTraining):
    """Minimize the loss on PGD examples of one radius for all (Madry et al. 2018, arXiv 1706.06083, eq. 2.1).

    With a clean weight, the objective mixes in the clean images: the simplest rival of any adaptive method.
    """

    multilabel = True
