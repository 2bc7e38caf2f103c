"""Packaging of posetraj_jax: all metadata and every dependency. Tool settings: pyproject.toml."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "posetraj_jax/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

PACKAGES = [
    "posetraj_jax",
    "posetraj_jax.cameras",
    "posetraj_jax.data",
    "posetraj_jax.diffusion",
    "posetraj_jax.evaluation",
    "posetraj_jax.evaluation.networks",
    "posetraj_jax.models",
    "posetraj_jax.nn",
    "posetraj_jax.planning",
    "posetraj_jax.sampling",
    "posetraj_jax.tracking",
    "posetraj_jax.training",
    "posetraj_jax.trajectories",
    "posetraj_jax.web",
    "data_prep",
    "data_prep.engines",
    "data_prep.fanout",
    "data_prep.looking",
    "data_prep.objects",
    "data_prep.scenes",
    "data_prep.videos",
    "convert_weights",
    "convert_weights.oracle",
]

CORE = [
    "av>=14",  # MP4 without a system ffmpeg
    "clu>=0.0.12",  # parameter overview, metric accumulation
    "etils[epath]>=1.9",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "importlib_resources",  # tensorflow-datasets needs it and does not say so
    "jax>=0.10",
    "jaxtyping>=0.3",
    "matplotlib>=3.9",
    "ml-collections>=1.1",
    "numpy>=2",
    "opencv-python-headless>=4.10",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12,<1",
    "pillow>=11",
    "safetensors>=0.8",  # reads bfloat16 tensors without torch
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.10",
    "tqdm>=4.66",
]
PREP = ["apache-beam>=2.77"]
CONVERT = ["torch>=2.6", "diffusers>=0.35", "transformers>=4.50", "accelerate"]
EVAL = ["scipy>=1.13"]
DEMO = ["gradio>=6"]
TPU = ["jax[tpu]; sys_platform == 'linux'"]  # its compiler makes plans, and needs no TPU
BROWSER = ["playwright>=1.50"]  # and Debian's chromium: the page's tests in a browser
TEST = [
    "beartype>=0.19",
    "ipykernel>=6",
    "nbclient>=0.10",
    "pytest>=8",
    "pytest-xdist>=3.7",
    "ruff>=0.9",
    "trimesh>=4",
]

setup(
    name="posetraj_jax",
    version=VERSION,
    description="PoseTraj (CVPR 2025) in JAX: trajectory-controlled video diffusion on TPU and GPU",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*PACKAGES, "posetraj_jax.configs"],
    package_dir={"posetraj_jax.configs": "configs"},
    package_data={
        "posetraj_jax.data": ["clips/**/*", "videos/**/*"],
        "posetraj_jax.web": ["static/*"],
    },
    install_requires=CORE,
    extras_require={
        "tpu": TPU,
        "cuda": ["jax[cuda12]"],
        "prep": PREP,
        "convert": CONVERT,
        "eval": EVAL,
        "demo": DEMO,
        "browser": [*DEMO, *BROWSER],
        "dev": [*TEST, *CONVERT, *PREP, *DEMO, *TPU, "torch==2.13.0"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
