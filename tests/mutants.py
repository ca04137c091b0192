"""Do the tests notice mistakes? Plant each of a list of mistakes, and run the tests of its place.

    python -m tests.mutants [--only TEXT] [--jobs 2] [--table FILE]

A mistake is caught if a test fails. The exit status is 1 if fewer than 95 % are caught, or if the
tests fail without a mistake. The checkout stays as it is: each mistake is planted in a copy.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = [
    "torch",
    "torchvision",
    "pandas",
    "scipy.stats",
    "matplotlib.pyplot",
    "pytest",
    "hypothesis",
]
COPIED = ("data", "notebooks", "tests", "workbench", "pyproject.toml")
TARGET = 0.95
LIMIT = 300  # seconds that the tests of a mistake may take: a hang is caught, too


class Mutant(NamedTuple):
    """A mistake: in `file`, `original` (which occurs once) becomes `mutated`; `tests` must fail."""

    file: str
    original: str
    mutated: str
    tests: str  # of tests/: a file, or several names of tests in it, after "::"


MUTANTS = [
    # Clips
    Mutant("clips/clip.py", "action.start - grow, action.stop + grow", "action.start, action.stop + grow", "test_evaluation.py::test_the_tolerance_in_time_is_the_same_on_both_sides"),
    Mutant("clips/clip.py", "(self.times >= start) & (self.times < stop)", "(self.times >= start) & (self.times <= stop)", "test_clips.py::test_an_interval_has_its_start_and_not_its_stop"),
    Mutant("clips/clip.py", "positions = np.flatnonzero(positions)", "pass", "test_hostile_files.py::test_select_takes_a_mask"),
    Mutant("clips/clip.py", "[width / self.size[1], height / self.size[0]]", "[height / self.size[0], width / self.size[1]]", "test_clips.py::test_resize_moves_boxes_with_the_pixels"),
    Mutant("clips/clip.py", "boxes - np.array([left, top] * 2", "boxes - np.array([top, left] * 2", "test_clips.py::test_crop_moves_and_clips_boxes"),
    Mutant("clips/clip.py", "if height < 1 or width < 1 or not inside", "if not inside", "test_hostile_files.py::test_a_cut_out_has_at_least_one_pixel"),
    Mutant("clips/sampling.py", "np.linspace(first, last - 1, frames)", "np.linspace(first, last, frames)", "test_clips.py::test_frame_indices_by_hand"),
    Mutant("clips/sampling.py", "first + spare // 2 + stride", "first + stride", "test_clips.py::test_strides_are_centred"),
    Mutant("clips/sampling.py", "max(0, (first + last - window) // 2)", "first", "test_clips.py::test_a_short_segment_is_widened_within_the_video"),
    Mutant("clips/sampling.py", "_ROUNDING = 1e-6", "_ROUNDING = 0.0", "test_clips.py::test_times_that_were_rounded_still_mean_their_frame"),
    Mutant("clips/sampling.py", "if not needed <= limit:", "if False:", "test_hostile_files.py::test_a_clip_may_not_take_more_memory_than_the_limit"),
    Mutant("clips/decoding.py", 'frame.rotation // 90', '0', "test_clips.py::test_the_picture_keeps_its_size_and_is_turned_upright"),
    Mutant("clips/decoding.py", "if frame.is_corrupt or table.lost(before, number) or number > wanted[0]:", "if number > wanted[0]:", "test_hostile_files.py::test_a_frame_that_vanishes_is_damage_to_those_after_it"),
    Mutant("clips/decoding.py", "broken or (damaged and not recovers)", "broken", "test_clips.py::test_damage_is_told_or_does_not_matter"),
    Mutant("clips/packets.py", "times = (ticks[shown] - origin)", "times = ticks[shown]", "test_clips.py::test_time_begins_with_the_file"),
    Mutant("clips/packets.py", "        if playlist:", "        if False:", "test_hostile_files.py::test_a_playlist_is_refused"),
    Mutant("clips/packets.py", "if not path.is_file():\n        raise ClipError", "if False:\n        raise ClipError", "test_hostile_files.py::test_a_pipe_is_not_waited_for"),
    Mutant("clips/packets.py", "suspect[_listed_in_index(path, packets, chunk) :] = True", "pass", "test_hostile_files.py::test_frames_after_a_lost_chunk_of_an_avi_are_refused_and_those_before_are_right"),
    Mutant("clips/mp4_index.py", '= packets["dts"] + offsets', '= packets["dts"]', "test_hostile_files.py::test_an_mp4_is_listed_by_its_index_without_reading_its_packets"),
    Mutant("clips/mp4_index.py", "if found == kind and deeper:", "if deeper:", "test_hostile_files.py::test_an_mp4_is_listed_by_its_index_without_reading_its_packets"),
    Mutant("clips/reading.py", "if not table.by_index:", "if True:", "test_hostile_files.py::test_an_index_that_promises_other_times_is_not_believed_twice"),
    Mutant("clips/frame_folders.py", "return length if length >= 0 else None", "return length", "test_hostile_files.py::test_a_tar_member_of_negative_size_is_damage"),
    Mutant("clips/frame_folders.py", "index.pictures((indices + 1).tolist())", "index.pictures(indices.clip(1).tolist())", "test_epic_kitchens.py::test_video_and_frames_show_the_same_moment"),
    Mutant("clips/frame_folders.py", "formats=_FORMATS", "formats=None", "test_hostile_files.py::test_no_program_is_started_for_a_picture"),
    Mutant("clips/files.py", "        temporary.replace(path)", "        path.write_bytes(temporary.read_bytes())", "test_files.py"),
    Mutant("clips/files.py", "        remove_orphans(folder)", "        pass", "test_files.py::test_what_a_killed_process_left_is_removed_at_the_next_start"),
    # Data sets
    Mutant("datasets/csv_files.py", "60 * minutes", "6 * minutes", "test_epic_kitchens.py::test_clock_times_by_hand"),
    Mutant("datasets/object_boxes.py", "np.stack([left, top, left + width, top + height]", "np.stack([top, left, top + height, left + width]", "test_epic_kitchens.py"),
    Mutant("datasets/object_boxes.py", "away.min(0) <= _SPACING / 2", "away.min(0) <= _SPACING", "test_epic_kitchens.py::test_boxes_are_those_of_the_nearest_annotated_frame_in_the_clips_pixels"),
    Mutant("datasets/epic.py", r'r"[A-Za-z0-9_-]+"', r'r".+"', "test_hostile_files.py::test_an_id_may_not_lead_out_of_the_data_set"),
    Mutant("datasets/ucf.py", 'encoding="utf-8-sig"', 'encoding="utf-8"', "test_hostile_files.py::test_a_byte_order_mark_is_no_part_of_a_list"),
    Mutant("datasets/ucf.py", "label != class_id + 1", "label != class_id", "test_ucf101.py"),
    # Models
    Mutant("models/zoo.py", "MFNET_STD = (1 / (0.0167 * 255),)", "MFNET_STD = (1 / (0.0175 * 255),)", "test_models.py::test_mfnet_is_fed_as_its_authors_feed_it"),
    Mutant("models/input_spec.py", "channels = frames.flip(-1) if self.bgr else frames", "channels = frames", "test_models.py test_zoo.py::test_bninception_s_checkpoints_take_bgr_up_to_255"),
    Mutant("models/input_spec.py", "clip.crop((height - tall) // 2, (width - wide) // 2,", "clip.crop(0, 0,", "test_models.py::test_the_crop_is_the_centre"),
    Mutant("models/input_spec.py", "self.resize / min(height, width)", "self.resize / max(height, width)", "test_models.py::test_a_number_resizes_the_short_side_and_a_pair_squashes"),
    Mutant("models/input_spec.py", "torch.linspace(0, count - 1, count // step)", "torch.arange(0, count, step)", "test_networks.py::test_slowfast_takes_what_pack_pathway_gives_and_changes_nothing_of_the_caller_s"),
    Mutant("models/checkpoints.py", "if _kind(state[name]) != _kind(own[name])", "if False", "test_models.py::test_weights_that_would_change_when_converted_are_refused"),
    Mutant("models/checkpoints.py", "converted.isfinite().all()", "value.isfinite().all()", "test_models.py::test_weights_that_would_change_when_converted_are_refused"),
    Mutant("models/checkpoints.py", 'if "weights_only" in reason:', "if False:", "test_models.py::test_no_error_repeats_torch_s_advice_to_load_any_code"),
    Mutant("models/checkpoints.py", "seen.add(id(content))", "pass", "test_models.py::test_a_checkpoint_that_contains_itself_is_refused"),
    # Saliency
    Mutant("saliency/tubes.py", "torch.nonzero(weights >= tau)", "torch.nonzero(weights > tau)", "test_tubes.py"),
    Mutant("saliency/tubes.py", "weights * (weights >= tau)", "weights * (weights > tau)", "test_tubes.py"),
    Mutant("saliency/tubes.py", "order=3, **place", "order=1, **place", "test_tubes.py"),
    Mutant("saliency/tubes.py", "float(self.volume.min()), float(self.volume.max())", "0.0, float(self.volume.max())", "test_tubes.py"),
    Mutant("saliency/tubes.py", "return self.normalized.mean(axis=(1, 2))", "return self.normalized.max(axis=(1, 2))", "test_tubes.py"),
    Mutant("saliency/tubes.py", "np.sort(values)[-kept]", "np.sort(values)[kept - 1]", "test_evaluation.py::test_tau_keeps_the_share_asked_for"),
    Mutant("saliency/class_weights.py", "return gradient.sum((1, 2, 3))", "return gradient.mean((1, 2, 3))", "test_explanations.py::test_gradient_weights_of_a_pooled_linear_head_are_its_weights"),
    Mutant("saliency/class_weights.py", "2 * square + gradient**3", "square + gradient**3", "test_networks.py::test_gradient_plus_plus_is_equation_19"),
    Mutant("saliency/class_weights.py", "gradient.relu() * gradient[0].numel()", "gradient.relu()", "test_networks.py::test_of_a_pooled_linear_head_all_weights_rise_with_the_class_weight"),
    Mutant("saliency/explaining.py", "if not missed <= allowed:", "if False:", "test_explanations.py::test_a_proof_is_made_on_every_clip_anew"),
    # Metrics
    Mutant("metrics/arrays.py", "np.arange(width) + 0.5", "np.arange(width)", "test_metrics.py"),
    Mutant("metrics/arrays.py", "(y < high[:, :, 1])", "(y <= high[:, :, 1] + 1)", "test_metrics.py"),
    Mutant("metrics/localisation.py", "correct[values >= peak - slack].all()", "correct[values >= peak - slack].any()", "test_metrics.py"),
    Mutant("metrics/localisation.py", "np.maximum(volume, 0)", "np.abs(volume)", "test_metrics.py"),
    Mutant("metrics/temporal.py", "levels(volume.max(axis=(1, 2))", "levels(volume.mean(axis=(1, 2))", "test_metrics.py"),
    Mutant("metrics/temporal.py", "profile > profile.max() / 2", "profile > profile.mean()", "test_metrics.py"),
    Mutant("metrics/temporal.py", "(times < stop)", "(times <= stop)", "test_metrics.py"),
    Mutant("metrics/perturbation.py", "-levels(means, noise(volume))", "levels(means, noise(volume))", "test_metrics.py"),
    Mutant("metrics/perturbation.py", "permutation(len(means))", "permutation(len(means)).argsort().argsort() * 0", "test_metrics.py"),
    Mutant("metrics/perturbation.py", "_exchange(score, replaced, clip.frames", "_exchange(score, clip.frames, replaced", "test_metrics.py"),
    Mutant("metrics/perturbation.py", "BLUR * clip.size[0]", "BLUR * clip.size[1]", "test_metrics.py"),
    Mutant("metrics/confidence.py", "tail = (1 - level) / 2", "tail = 1 - level", "test_metrics.py"),
    Mutant("metrics/agreement.py", "(volume.astype(np.float64) - low) / (high - low)", "volume.astype(np.float64) / high", "test_metrics.py"),
    # Training
    Mutant("training/sample_networks.py", "seed = TRAINING_SEEDS + self.first_seed", "seed = self.first_seed", "test_training.py::test_training_clips_have_seeds_from_2_40_on_and_measured_clips_below"),
    Mutant("training/settings.py", "scale = HEAD if parameter in new else 1.0", "scale = 1.0", "test_tuning.py::test_a_new_head_learns_ten_times_as_fast_and_an_old_one_does_not"),
    Mutant("training/settings.py", "math.pi * done", "math.pi * done / 2", "test_tuning.py::test_the_rate_rises_in_a_line_and_falls_as_a_cosine_to_0"),
    Mutant("training/augmentation.py", "frames[:, :, ::-1] if flip", "frames[:, ::-1] if flip", "test_tuning.py::test_flips_mirror_half_of_the_clips_or_none"),
    Mutant("training/batches.py", "[self.seed, 0, epoch]", "[self.seed, 0]", "test_tuning.py::test_a_plan_shows_every_clip_once_an_epoch_and_resumes"),
    Mutant("training/runs.py", "self.tuned.module.load_state_dict(self.best[\"state_dict\"])", "pass", "test_tuning.py::test_the_weights_returned_are_those_of_the_best_epoch_not_of_the_last"),
    # Views and studies
    Mutant("views/overlays.py", "np.float32(1 - alpha) * frame", "np.float32(alpha) * frame", "test_overlays.py"),
    Mutant("views/overlays.py", "np.float32(floor) + np.float32(1 - floor) * shown", "np.float32(floor) + shown", "test_overlays.py"),
    Mutant("views/overlays.py", 'tube.normalized if scale == "volume"', 'tube.normalized if scale != "volume"', "test_overlays.py"),
    Mutant("studies/figures/figure3.py", ".argmin(1)", ".argmax(1)", "test_figures.py::test_comparison_shows_the_frame_of_a_tube_that_is_nearest_in_time"),
    Mutant("studies/figures/printed.py", "(height - rows) // 2, (width - columns) // 2", "0, 0", "test_figures.py::test_print_view_cuts_out_the_middle"),
    Mutant("studies/randomisation.py", "return [*module.parameters(), *module.buffers()]", "return [*module.parameters()]", "test_randomisation.py::test_a_stage_shuffles_the_statistics_of_its_batch_norms test_randomisation.py::test_shuffling_reaches_the_statistics_of_batch_norms"),
    Mutant("studies/study_methods.py", "tube(label, tau=0.0)", "tube(label)", "test_study.py::test_tau_0_keeps_the_features_with_positive_weights"),
    Mutant("studies/evaluation.py", 'by_clip["tube"].all()', 'by_clip["tube"].any()', "test_evaluation.py::test_a_summary_counts_accuracy_by_clip_and_hits_by_action"),
    Mutant("studies/evaluation.py", "int(probabilities.argmax())", "int(probabilities.argmin())", "test_predictions.py"),
]  # fmt: skip


def selected(mutant: Mutant) -> list[str]:
    """Return what pytest is to run, relative to the checkout."""
    return [f"tests/{name}" for name in mutant.tests.split()]


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """Yield a copy of what the tests need."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for part in COPIED:
            source = ROOT / part
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, Path(name, part), ignore=ignored)
            else:
                shutil.copy(source, Path(name, part))
        yield Path(name)


def failure(checkout: Path, tests: list[str], limit: float = LIMIT) -> str:
    """Run tests in a checkout; return the first failure, "" if all pass."""
    log = checkout / "pytest.log"
    # A fork of a process that has loaded the large libraries: that takes longer than most tests.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(checkout, tests, log))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return "over the time limit"
    if process.exitcode == 0:
        return ""
    text = log.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if process.exitcode != 1 or not lines:
        raise RuntimeError(f"{' '.join(tests)}: pytest did not run:\n{text}")
    return lines[0]


def _run(checkout: Path, tests: list[str], log: Path) -> None:
    """Run pytest in this process, on the package in `checkout`."""
    os.chdir(checkout)
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path[:] = [str(checkout), *(path for path in sys.path if path not in ("", str(ROOT)))]
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}

    import pytest

    options = ["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-m", "not slow and not browser"]
    status = pytest.main([*options, *tests])
    sys.stdout.flush()
    os._exit(status)


def judge(mutant: Mutant, folder: Path) -> str:
    """Plant a mistake and return the test that notices it, or ""."""
    with copied(folder) as checkout:
        path = checkout / "workbench" / mutant.file
        text = path.read_text(encoding="utf-8")
        assert text.count(mutant.original) == 1, f"{mutant.file}: {mutant.original}"
        path.write_text(text.replace(mutant.original, mutant.mutated), encoding="utf-8")
        caught = failure(checkout, selected(mutant))
    print("caught  " if caught else "SURVIVED", mutant.file, repr(mutant.mutated), flush=True)
    return caught


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="mistakes in files with this in their names")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", type=Path, help="write the outcomes to this file, too")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    chosen = [mutant for mutant in MUTANTS if asked.only in mutant.file]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(asked.jobs) as pool:
        with copied(Path(name)) as checkout:
            tests = sorted({test for mutant in chosen for test in selected(mutant)})
            broken = failure(checkout, tests, limit=6 * LIMIT)
        if broken:
            print(f"Without a mistake, the tests fail: {broken}")
            return 1
        outcomes = list(pool.map(partial(judge, folder=Path(name)), chosen))
    survivors = [mutant for mutant, caught in zip(chosen, outcomes) if not caught]
    share = 1 - len(survivors) / len(chosen)
    lines = [f"{len(chosen) - len(survivors)} of {len(chosen)} mistakes caught ({share:.0%})"]
    lines += [f"survived: {m.file}: {m.original!r} -> {m.mutated!r}" for m in survivors]
    print("\n".join(lines))
    if asked.table:
        asked.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(share < TARGET)


if __name__ == "__main__":
    raise SystemExit(main())
