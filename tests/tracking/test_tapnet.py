"""The adapter for DeepMind's trackers, against a stand-in with the interface of their package.

The stand-in sees the pictures and answers in its own coordinates: it looks for the brightest spot,
so that a mistake in scale, order of axes or half a pixel shows.
"""

import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

from posetraj_jax.errors import UserError
from posetraj_jax.tracking import tapnet

HEIGHT, WIDTH, FRAMES = 120, 300, 5


class Tensor(np.ndarray):
    """The few methods of torch's tensors that the adapter calls."""

    def detach(self):
        return self

    def cpu(self):
        return self

    def to(self, device):
        assert device == "cpu"
        return self

    def float(self):
        return self.astype(np.float32)

    def numpy(self):
        return np.asarray(self)


class NoGrad:
    entered = 0

    def __enter__(self):
        NoGrad.entered += 1

    def __exit__(self, *_):
        NoGrad.entered -= 1


class Network:
    """What both networks share: they are moved, set to evaluate, and load weights."""

    def __init__(self, **options):
        self.options, self.loaded, self.evaluates = options, None, False

    def load_state_dict(self, weights):
        if weights != "weights":
            raise RuntimeError("Missing key(s) in state_dict")
        self.loaded = weights

    def to(self, device):
        return self

    def eval(self):
        self.evaluates = True
        return self

    def spot(self, video) -> np.ndarray:
        """The middle (x, y) of what is bright in each frame of a video [1 t h w 3]."""
        assert NoGrad.entered
        assert self.evaluates
        assert self.loaded
        assert video.dtype == np.float32
        assert video.ndim == 5
        assert video.shape[0] == 1
        assert video.shape[2:] == (256, 256, 3)
        assert -1 <= video.min() < -0.9
        assert 0.5 < video.max() <= 1
        bright = video[0, ..., 0] + 1
        rows, columns = np.mgrid[:256, :256] + 0.5
        total = bright.sum(axis=(1, 2))
        spots = [(bright * axis).sum(axis=(1, 2)) / total for axis in (columns, rows)]
        return np.stack(spots, axis=1)


class TAPIR(Network):
    def __call__(self, video, query_points):
        assert self.options == {"pyramid_level": 1}
        spots, queries = self.spot(video), np.asarray(query_points)[0]
        assert (queries[:, 0] == 0).all()
        offset = queries[:, :0:-1] - spots[0]  # (t, y, x) to (x, y)
        tracks = spots[None] + offset[:, None]
        occlusion = np.full(tracks.shape[:2], -5.0)
        occlusion[0, 3] = 5
        uncertain = np.full(tracks.shape[:2], -900.0)
        uncertain[1, 2] = 900
        outputs = {"tracks": tracks, "occlusion": occlusion, "expected_dist": uncertain}
        return {name: array[None].view(Tensor) for name, array in outputs.items()}


class TAPNext(Network):
    def __call__(self, video, query_points=None, state=None):
        assert self.options == {"image_size": (256, 256)}
        assert (query_points is None) == (state is not None)
        assert video.shape[1] == 1
        spot = self.spot(video)[0]
        if state is None:
            queries = np.asarray(query_points)[0]
            state = SimpleNamespace(step=0, offset=queries[:, 1:] - spot[::-1])
        positions = (spot[::-1] + state.offset)[None, None]  # (y, x)
        visible = np.full((1, 1, len(state.offset), 1), 2.0)
        visible[0, 0, 0] = -2.0 if state.step == 3 else 2.0
        visible[0, 0, 1] = -2.0 if state.step == 2 else 2.0
        state = SimpleNamespace(step=state.step + 1, offset=state.offset)
        logits = np.zeros((1, 1, len(state.offset), 512))
        return positions.view(Tensor), logits.view(Tensor), visible.view(Tensor), state


def load(path, map_location, weights_only):
    assert weights_only
    assert map_location == "cpu"
    return path.read_text()


def restore(network, path):
    with open(path) as file:
        if file.read() != "weights":
            raise KeyError("backbone/embedding/kernel")
    network.loaded = "weights"
    return network


@pytest.fixture
def installed(monkeypatch):
    modules = {
        "torch": {
            "from_numpy": lambda array: array.view(Tensor),
            "cuda": SimpleNamespace(is_available=lambda: False),
            "no_grad": NoGrad,
            "load": load,
        },
        "tapnet": {},
        "tapnet.torch": {},
        "tapnet.torch.tapir_model": {"TAPIR": TAPIR},
        "tapnet.tapnext": {},
        "tapnet.tapnext.tapnext_torch": {"TAPNext": TAPNext},
        "tapnet.tapnext.tapnext_torch_utils": {"restore_model_from_jax_checkpoint": restore},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights"
    path.write_text("weights")
    return path


@pytest.fixture(scope="module")
def video():
    """Frames with a bright spot, and its middle [f 2] in the project's pixels."""
    middles = np.array([[60.0 + 21 * t, 40.0 + 6.5 * t] for t in range(FRAMES)])
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for frame, (x, y) in zip(frames, middles, strict=True):
        frame[:] = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 128)[..., None]
    return frames, middles


@pytest.mark.parametrize("model", ["bootstapir", "tapnext"])
def test_known_motion_through_all_conversions(installed, weights, video, model):
    frames, middles = video
    seeds = middles[0] + np.array([[0.0, 0.0], [-30.0, 20.0], [170.0, -3.0]])
    tracked = tapnet.track(frames, seeds, model=model, weights=weights)
    expected = middles[:, None] + (seeds - middles[0])
    np.testing.assert_allclose(tracked.points_px, expected, atol=0.1)
    np.testing.assert_array_equal(tracked.points_px[0], seeds.astype(np.float32))
    assert tracked.points_px.dtype == np.float32
    hidden = [(3, 0), (2, 1)]
    inside = expected[..., 0] < WIDTH
    expected_visible = inside.copy()
    expected_visible[tuple(zip(*hidden, strict=True))] = False
    np.testing.assert_array_equal(tracked.visible, expected_visible)
    assert not inside.all(), "a point that leaves the picture"


def test_likelihood_does_not_overflow():
    with np.errstate(all="raise"):
        likely = tapnet._likely_not(np.array([-1e4, 0, 1e4], np.float32))
    np.testing.assert_allclose(likely, [1, 0.5, 0])


@pytest.mark.parametrize("model", ["bootstapir", "tapnext"])
def test_package_that_is_missing(monkeypatch, weights, video, model):
    monkeypatch.setitem(sys.modules, "tapnet", None)
    with pytest.raises(UserError, match="is not installed") as error:
        tapnet.track(*video[:1], video[1][:1], model=model, weights=weights)
    assert "pip install" in error.value.fix
    assert "google-deepmind/tapnet" in error.value.fix


@pytest.mark.parametrize("model", ["bootstapir", "tapnext"])
def test_weights_that_are_missing_or_others(installed, tmp_path, video, model):
    (tmp_path / "other").write_text("other")
    for name in ("none", "other"):
        with pytest.raises(UserError, match=f"weights of {model} cannot be used") as error:
            tapnet.track(*video[:1], video[1][:1], model=model, weights=tmp_path / name)
        assert tapnet.WEIGHTS[model] in error.value.expected


def test_other_trackers_and_other_seeds(weights, video):
    with pytest.raises(UserError, match="bootstapir, tapnext"):
        tapnet.track(*video[:1], video[1][:1], model="raft", weights=weights)
    for seed in ([-1.0, 5.0], [np.nan, 5.0], [5.0, 121.0]):
        with pytest.raises(UserError, match="300 x 120 pixels"):
            tapnet.track(video[0], np.array([seed]), model="tapnext", weights=weights)


def test_points_that_are_not_finite(installed, weights, video, monkeypatch):
    monkeypatch.setattr(TAPIR, "spot", lambda self, video: np.full((FRAMES, 2), np.nan))
    with pytest.raises(UserError, match="bootstapir failed"):
        tapnet.track(*video[:1], video[1][:2], model="bootstapir", weights=weights)


def test_resizing_keeps_the_middle_of_the_spot(video):
    """What the conversions rest on: OpenCV aligns the corners of pictures, not pixel centres."""
    frames, middles = video
    small = cv2.resize(frames[0], (256, 256), interpolation=cv2.INTER_AREA)[..., 0].astype(float)
    rows, columns = np.mgrid[:256, :256] + 0.5
    found = np.array([(small * columns).sum(), (small * rows).sum()]) / small.sum()
    np.testing.assert_allclose(found, middles[0] * (256 / WIDTH, 256 / HEIGHT), atol=0.05)
