# The public names of the package: read by Python (lazy_loader), type checkers and editors.

from . import metrics, models, training
from .clips.clip import Action, Clip
from .clips.reading import read_clip
from .clips.videos import ClipError, video_info
from .clips.writing import save_picture, save_video
from .datasets import samples
from .datasets.epic import epic_kitchens
from .datasets.places import find_data
from .datasets.table import Dataset
from .datasets.ucf import ucf101
from .metrics import (
    deletion,
    energy_inside,
    insertion,
    pointing_game,
    rank_correlation,
    structural_similarity,
    temporal_auc,
    temporal_iou,
    temporal_variation,
)
from .models.input_spec import InputSpec
from .models.networks.tsn import TSN
from .models.video_model import VideoModel, wrap_model
from .models.zoo import list_models, load_model
from .saliency.explaining import explain
from .saliency.explanation import Explanation
from .saliency.tubes import Tube, tau_for_share
from .studies import charts, evaluation, figures, study
from .studies.evaluation import evaluate, predictions
from .studies.randomisation import cascading_randomisation
from .sweeps.store import open_store
from .sweeps.sweeping import sweep
from .sweeps.whole_videos import explain_video
from .training.fine_tuning import fine_tune
from .training.runs import Training
from .views.dataset_browser import Browser, browse
from .views.explorer import Explorer, explore
from .views.overlays import focus, heat
from .views.pictures import draw_boxes, filmstrip
from .views.volumes import save_html, timeline_figure, volume_figure
