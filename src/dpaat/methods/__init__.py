"""Training methods: DPAAT, and one rival a file in `baselines`, each registered where it is defined."""

from dpaat.methods import baselines as baselines
from dpaat.methods import dpaat as dpaat
from dpaat.methods.base import AdversarialTraining as AdversarialTraining
from dpaat.methods.base import Method as Method
from dpaat.methods.base import MethodContext as MethodContext
from dpaat.methods.base import StepOutput as StepOutput
from dpaat.methods.base import mixed_loss as mixed_loss
from dpaat.methods.options import option as option
from dpaat.methods.registry import METHODS as METHODS
from dpaat.methods.registry import Cost as Cost
from dpaat.methods.registry import MethodInfo as MethodInfo
from dpaat.methods.registry import build_method as build_method
from dpaat.methods.registry import complete_options as complete_options
from dpaat.methods.registry import find_method as find_method
from dpaat.methods.registry import register_method as register_method
from dpaat.registry import load_entry_points

load_entry_points("dpaat.methods")
