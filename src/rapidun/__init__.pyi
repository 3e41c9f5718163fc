from rapidun.api import evaluate as evaluate
from rapidun.api import reveal as reveal
from rapidun.api import run as run
from rapidun.api import trace as trace
from rapidun.api import unlearn as unlearn
from rapidun.api import value as value
from rapidun.attacks import register_attack as register_attack
from rapidun.attribution import open_index as open_index
from rapidun.attribution import register_scorer as register_scorer
from rapidun.data import load_rows as load_rows
from rapidun.evaluation import register_judge as register_judge
from rapidun.gradients import GradientCollector as GradientCollector
from rapidun.models import load_model as load_model
from rapidun.pipeline.suites import register_suite as register_suite
from rapidun.unlearning import register_method as register_method
from rapidun.weighting import register_scheme as register_scheme

__version__: str
