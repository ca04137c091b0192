# The public names of the package: read by Python (lazy_loader), type checkers and editors.

from . import metrics, models, training
from .clips.clip import Action, Clip
from .clips.errors import ClipError
from .clips.packets import video_info
from .clips.reading import read_clip
from .clips.writing import save_picture, save_video
from .datasets import samples
from .datasets.actor_boxes import ucf101_24
from .datasets.epic import epic_kitchens
from .datasets.places import find_data
from .datasets.puppet_masks import jhmdb
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
from .models.video_model import VideoModel
from .models.wrapping import wrap_model
from .models.zoo import list_models, load_model
from .saliency.attribution import attribute
from .saliency.explaining import explain
from .saliency.explanation import Explanation
from .saliency.tubes import Tube, tau_for_share
from .studies import (
    attribution_study,
    charts,
    evaluation,
    figures,
    study,
    training_matrix,
    transformer_study,
)
from .studies.diagnosis import diagnose
from .studies.evaluation import evaluate, predictions
from .studies.randomisation import cascading_randomisation
from .studies.scoring import score
from .sweeps.store import open_store
from .sweeps.sweeping import sweep
from .sweeps.whole_videos import explain_video
from .training.fine_tuning import fine_tune
from .training.results import Training
from .views.dataset_browser import Browser, browse
from .views.explorer.app import Explorer
from .views.explorer.opening import explore, save_page
from .views.overlays import focus, heat
from .views.pictures import draw_boxes, filmstrip
from .views.plotly_figures import save_html
from .views.timelines import timeline_figure
from .views.volumes import volume_figure
