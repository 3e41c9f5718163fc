"""What a row is worth before training on it: LinFiK, its student ALinFiK, and what to do with the values."""

from rapidun.settings.value import Selection, parse_selection
from rapidun.valuation.distil import Distilled, committee, distil
from rapidun.valuation.diversity import pick_diverse, register_diversity
from rapidun.valuation.encoder import EncoderStudent
from rapidun.valuation.fidelity import calibration, ndcg, over_rows, spearman
from rapidun.valuation.kernel import KernelStudent
from rapidun.valuation.linfik import LinFiK
from rapidun.valuation.ridge import RidgeStudent
from rapidun.valuation.sampling import random_sample, stratified_sample, uncertain_sample
from rapidun.valuation.saved import SavedStudent, load_student, save_student
from rapidun.valuation.selection import choose
from rapidun.valuation.shares import Share, Shares
from rapidun.valuation.students import Labelled, register_student

__all__ = [
    "Distilled",
    "EncoderStudent",
    "KernelStudent",
    "Labelled",
    "LinFiK",
    "RidgeStudent",
    "SavedStudent",
    "Selection",
    "Share",
    "Shares",
    "calibration",
    "choose",
    "committee",
    "distil",
    "load_student",
    "ndcg",
    "over_rows",
    "parse_selection",
    "pick_diverse",
    "random_sample",
    "register_diversity",
    "register_student",
    "save_student",
    "spearman",
    "stratified_sample",
    "uncertain_sample",
]
