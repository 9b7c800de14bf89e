"""What all systems share: their sizes, their face (`forward(batch) -> Output`), their loss, saving
and loading.

A system is a `System` with a `name`, a `build` that makes its parts from the sizes, and a
`forward`. Everything else (training, evaluation, checkpoints, model cards) works on that face and
never asks which system it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, constants, hf_hub_download
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass as checked
from safetensors import safe_open
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn import functional

from taemi_lib.batches import Batch
from taemi_lib.errors import CheckpointError, ChoiceError
from taemi_lib.models.attention import SelfAttention, TimeFeatures
from taemi_lib.models.missing import MissingToken
from taemi_lib.models.standard import Standard
from taemi_lib.profiles import EMOTIONS, Model, Training, parse_pairs
from taemi_lib.support import files
from taemi_lib.support.differences import differences

_CARD = """---
{{ card_data }}
---
# {{ system }}

{{ summary }}

What it says of one clip, in this order: {{ targets }}.
A checkpoint of the TAEMI course; {{ parameters }} parameters.
The outputs are linear, 0 standing for {{ lowest }} and 1 for {{ highest }}: clip them for use.
{% if training %}
Trained with `taemi_lib.train`: {{ training }}.
{% endif %}
```python
from taemi_lib import models
model = models.load("FOLDER")  # a folder, or: models.create("{{ system }}", ...) for fresh weights
```

| size | value |
|---|---|
{% for key, value in sizes.items() %}| {{ key }} | {{ value }} |
{% endfor %}
It knows only the clips and the encoders it was trained with: other features of the same width give
numbers without meaning.
"""


@checked(frozen=True, kw_only=True)
class Sizes(Model):
    """All sizes that systems choose from: those of the profile, how many numbers the encoders'
    features have, and how many targets there are."""

    audio_dim: int = Field(ge=1)
    vision_dim: int = Field(ge=1)
    text_dim: int = Field(ge=1)
    outputs: int = Field(ge=1)


def _checked_sizes(**sizes) -> Sizes:
    """Raises ChoiceError naming the size, its value and what is allowed."""
    try:
        return Sizes(**sizes)
    except ValidationError as error:
        faults = [
            # without a location: sizes that contradict each other, and the message names them
            "".join(f"{name} = {fault['input']!r}: " for name in fault["loc"])
            + fault["msg"].removeprefix("Value error, ").replace("Input", "it")
            for fault in error.errors(include_url=False)
        ]
        raise ChoiceError("; ".join(faults)) from error


@dataclass
class Output:
    """What a system says about B clips.

    prediction (B, K)    one number a target, 0 at the lowest and 1 at the highest label that the
                         task allows; not clipped
    attention            {modality: (B, H, T)} weights of a system that attends with a query;
                         padding has weight 0
    kept                 {modality: (B,) bool} what the system was shown: present and not left out
                         by modality dropout
    losses               {name: scalar} what a system wants minimised beside its main loss (already
                         weighted)
    parts                {name: (B, K)} predictions of the parts of a system that combines
                         predictions (late fusion) or learns beside it what each modality says
    weights              {modality: (B,)} how much each clip's modalities count, in a system that
                         weighs them; they add up to 1 over those it was shown
    vectors              {name: (B, D)} what a system's own loss, or `observe`, reads of each clip
    """

    prediction: Tensor
    attention: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)


REGISTERED: dict[str, type[System]] = {}  # name -> class, in the order of definition


def _home(system: type[System]) -> str:
    return f"{system.__module__}.{system.__qualname__}"


class System(  # type: ignore[call-arg]  # the mixin takes these arguments
    nn.Module,
    PyTorchModelHubMixin,
    library_name="taemi",
    license="apache-2.0",
    tags=["emotional-mimicry-intensity"],
    model_card_template=_CARD,
):
    """Base of all systems; a Hugging Face hub model: `save_pretrained`, `from_pretrained`,
    `push_to_hub`, safetensors.

    Arguments: widths of the encoders' features (those of a modality that the data does not have
    are left out: nothing reads it then), the sizes of profiles.Model with the paper's defaults, and
    the number of targets, `outputs`. A system takes what it needs of them.

    What training asks of a system, all of it optional: `loss` (or `Output.losses` beside the usual
    one), `stages` with `begin`, `preset` and `calibrate`; and `observe` with `training_state`, of
    a system that remembers training clips.
    """

    name: ClassVar[str]
    # of training, one after the other; the last one makes the predictions
    stages: ClassVar[tuple[str, ...]] = ("fit",)
    # sizes that this system alone has: {name: values that a search tries, the default first}
    own: ClassVar[Mapping[str, tuple]] = {}
    # {name: {value at an end of that list: the one beyond, tried too where it did best}}
    own_beyond: ClassVar[Mapping[str, Mapping]] = {}
    needs_partner: ClassVar[bool] = False  # whether it reads Batch.partner, another clip's text
    _hub_mixin_info: Any
    _hub_mixin_config: Any

    def __init_subclass__(cls, **kwargs) -> None:
        """A class with a name of its own is known from now on: `models.find`, tables and tests ask
        REGISTERED. Raises ChoiceError when another class has the name."""
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            return
        there = REGISTERED.get(cls.name)
        if there is not None and _home(there) != _home(cls):
            raise ChoiceError(
                f"a system named {cls.name!r} is there already ({_home(there)}): "
                f"give {_home(cls)} another name"
            )
        REGISTERED[cls.name] = cls  # the same class again: a notebook's cell was run twice

    def __init__(
        self,
        audio_dim: int = 1,
        vision_dim: int = 1,
        text_dim: int = 1,
        width: int = 512,
        heads: int = 8,
        mlp_width: int = 512,
        dropout: float = 0.1,
        input_dropout: float = 0.0,
        modality_dropout: float = 0.1,
        time_features: bool = True,
        standardise: bool = False,
        own: Iterable[str] = (),
        outputs: int = len(EMOTIONS),
    ) -> None:
        super().__init__()
        self.sizes = _checked_sizes(
            audio_dim=audio_dim,
            vision_dim=vision_dim,
            text_dim=text_dim,
            width=width,
            heads=heads,
            mlp_width=mlp_width,
            dropout=dropout,
            input_dropout=input_dropout,
            modality_dropout=modality_dropout,
            time_features=time_features,
            standardise=standardise,
            own=tuple(own),
            outputs=outputs,
        )
        self.own_sizes = self._own_sizes(self.sizes.own)  # complete, defaults and all
        widths = {"audio": audio_dim, "vision": vision_dim, "text": text_dim}
        self.standard = Standard(widths) if standardise else None
        self.build(self.sizes)
        self.stage = self.stages[-1]

    @classmethod
    def _own_sizes(cls, asked: Iterable[str]) -> dict[str, Any]:
        """{name: value} of every size that this system alone has. Raises ChoiceError for one that
        it does not have, a text that is not listed, or a number of another kind or below 0."""
        found = parse_pairs(
            asked, "model.own holds {}: write NAME=VALUE, as in --set 'model.own=[\"depth=2\"]'"
        )
        for name, value in found.items():
            if name not in cls.own:
                there = ", ".join(cls.own) or "none"
                raise ChoiceError(
                    f"model.own: {cls.name} has no size {name!r} of its own; it has: {there}"
                )
            listed = cls.own[name]
            fits = type(value) is type(listed[0])
            if fits and value not in listed:
                fits = isinstance(value, int | float) and value > 0
            if not fits:
                raise ChoiceError(
                    f"model.own: {name} of {cls.name} is {value!r}; it must be like one of "
                    f"{', '.join(map(repr, listed))}"
                )
        return {name: values[0] for name, values in cls.own.items()} | found

    def build(self, sizes: Sizes) -> None:
        """Make the parts, from the sizes and from `self.own_sizes`. Called once, by the
        constructor."""
        raise NotImplementedError

    def __call__(self, batch: Batch) -> Output:
        """`forward`, on standardised features where the profile asks for that."""
        if self.standard is not None:
            self.check(batch)
            batch = self.standard(batch)
        return super().__call__(batch)

    def forward(self, batch: Batch) -> Output:
        raise NotImplementedError

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Mean squared error over outputs and clips (paper, section 3.5) plus the system's own
        `output.losses`."""
        return squared_error(output.prediction, batch) + sum(output.losses.values())

    def begin(self, stage: str) -> None:
        """A stage of training starts or continues: `forward` and `loss` may read `self.stage`;
        freeze here what does not train in it.

        Every stage has the whole schedule and early stopping to itself and starts from the best
        epoch of the one before, by its own loss on the selection split; only epochs of the last
        stage are chosen by mean rho. A loaded system is in the last stage.
        """
        self.stage = stage

    @classmethod
    def preset(cls, training: Training) -> Training:
        """The settings this system trains with, from those of the profile: for what its source
        fixes (say, large batches)."""
        return training

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Set buffers from the labelled batches of the selection split, before each score of the
        last stage.

        In evaluation mode, without gradients. Must depend on the weights and the batches only, or a
        resumed run would differ.
        """

    def observe(self, output: Output, batch: Batch) -> None:
        """Called with each batch of training, after its gradients and before the weights move: a
        system that keeps something of the training clips from epoch to epoch does so here, outside
        of its parameters and buffers, and by Batch.clip_id. No gradients."""

    def training_state(self) -> dict[str, Any]:
        """What `observe` has kept in the present stage: tensors, numbers, names, lists and
        dictionaries of these. Stored with the optimiser's state after each epoch, and in no
        checkpoint."""
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `training_state` returned, when an interrupted run continues. Raises
        ValueError for anything else."""
        if state:
            raise ValueError(f"{self.name} keeps nothing beside its weights")

    def check(self, batch: Batch) -> None:
        """Raises ValueError naming both sizes when the batch's features are not as wide as this
        model's."""
        found = {name: values.shape[-1] for name, values in batch.values.items()}
        if batch.pooled is not None:
            found["text"] = batch.pooled.shape[-1]
        for name, width in found.items():
            if width != (expected := getattr(self.sizes, f"{name}_dim")):
                raise ValueError(
                    f"{self.name} was built for {name} features {expected} wide, "
                    f"this batch has {width}: use the encoders it was trained with, "
                    "or train it on these features"
                )

    # --- saving and loading: one folder of model.safetensors, config.json and README.md

    def save_pretrained(self, save_directory, *, config=None, **kwargs):
        """As the hub mixin's; config.json also names the system, so that `models.load` knows what
        to build."""
        return super().save_pretrained(
            save_directory,
            config=config or {"system": self.name, **self._hub_mixin_config},
            **kwargs,
        )

    def generate_model_card(
        self,
        training: str = "",
        targets: str = "",
        lowest: float = 0.0,
        highest: float = 1.0,
        **kwargs,
    ) -> ModelCard:
        """The README of a checkpoint; training tells it about the task."""
        return ModelCard.from_template(
            self._hub_mixin_info.model_card_data,
            template_str=self._hub_mixin_info.model_card_template,
            system=self.name,
            summary=next(iter((type(self).__doc__ or "").strip().splitlines()), self.name),
            targets=targets or f"{self.sizes.outputs} targets",
            lowest=lowest,
            highest=highest,
            parameters=f"{sum(p.numel() for p in self.parameters()):,}",
            sizes=self._hub_mixin_config,
            training=training,
            **kwargs,
        )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id,
        revision,
        cache_dir,
        force_download,
        local_files_only,
        token,
        map_location="cpu",
        strict=True,
        **sizes,
    ):
        """Build and load, strictly: the mixin's own version ignores missing weights and prints into
        notebooks."""
        if Path(model_id).is_dir():
            file = Path(model_id) / constants.SAFETENSORS_SINGLE_FILE
        else:
            file = hf_hub_download(
                model_id,
                constants.SAFETENSORS_SINGLE_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        # first without memory: sizes come from a file, and may be any number
        try:
            with torch.device("meta"):
                draft = cls(**sizes)
        except (NotImplementedError, RuntimeError):  # a system that computes while it is built
            draft = cls(**sizes)
        _check_checkpoint(draft, Path(file))
        model = cls(**sizes)
        load_model(model, file, strict=strict, device=str(map_location))
        return model.eval()


def _check_checkpoint(model: System, file: Path) -> None:
    """Raises ValueError naming both sides when the checkpoint was made by another system or with
    other sizes."""
    if not file.exists():
        raise FileNotFoundError(
            f"no checkpoint at {file}: give the folder that save_pretrained wrote"
        )
    config = file.with_name(constants.CONFIG_NAME)
    saved = files.read_json(config) if config.exists() else {}
    if saved.get("system", model.name) != model.name:
        raise ValueError(
            f"{file.parent} holds a {saved['system']!r}, not a {model.name!r}: "
            "use models.load to get it"
        )
    with safe_open(file, framework="pt") as tensors:
        stored = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}
    built = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    # Dropout rates may change freely. The number of heads may not, though no tensor's shape shows
    # it.
    wanted = {
        key: value for key, value in model._hub_mixin_config.items() if not key.endswith("dropout")
    }
    for theirs, ours in (
        ({key: saved.get(key, value) for key, value in wanted.items()}, wanted),
        (stored, built),
    ):
        if different := differences(theirs, ours):
            raise CheckpointError(f"{file} is of other sizes: " + "; ".join(different[:5]))


def squared_error(prediction: Tensor, batch: Batch) -> Tensor:
    """Mean squared error of (B, K) predictions over the labels that are known; a scalar, 0 where a
    batch has none."""
    assert batch.labels is not None
    if prediction.shape != batch.labels.shape:  # torch would spread one column over many
        raise ValueError(
            f"predictions are {tuple(prediction.shape)} and labels {tuple(batch.labels.shape)}: "
            "create the system with outputs= the number of targets"
        )
    if batch.known is None:
        return functional.mse_loss(prediction.float(), batch.labels.float())
    error = (prediction.float() - batch.labels.float()).square() * batch.known
    return error.sum() / batch.known.sum().clamp(min=1)


class Stream(nn.Module):
    """One sequence modality in model space (audio: A', vision: V'), with its token where it is not
    kept.

    features (B, T, D) -> input dropout -> linear -> + time features -> self-attention -> (B, T, d),
    mask (B, T)
    """

    def __init__(self, name: str, sizes: Sizes) -> None:
        super().__init__()
        self.name = name
        self.input_dropout = nn.Dropout(sizes.input_dropout)
        self.project = nn.Linear(getattr(sizes, f"{name}_dim"), sizes.width)
        self.time = TimeFeatures(sizes.width) if sizes.time_features else None
        self.attend: nn.Module = SelfAttention(sizes.width, sizes.heads, sizes.dropout)
        self.token = MissingToken(sizes.width)

    def forward(self, batch: Batch, kept: Tensor) -> tuple[Tensor, Tensor]:
        if self.name not in batch.values:
            return self.token.in_sequence(None, None, kept)
        mask = batch.mask[self.name] & kept.unsqueeze(-1)
        # Whatever stands in the padding or in an absent modality (noise, NaN, inf) ends here.
        values = (
            batch.values[self.name]
            .masked_fill(~mask.unsqueeze(-1), 0)
            .to(self.project.weight.dtype)
        )
        values = self.project(self.input_dropout(values))  # (B, T, D) -> (B, T, d)
        if self.time is not None:
            values = values + self.time(batch.times[self.name].masked_fill(~mask, 0))
        return self.token.in_sequence(self.attend(values, mask), mask, kept)


class TextVector(nn.Module):
    """The raw text vector (B, text_dim) with its token where text is not kept (docs/paper.md row
    6)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(sizes.input_dropout)
        self.token = MissingToken(sizes.text_dim)

    def forward(self, batch: Batch, kept: Tensor) -> Tensor:
        if batch.pooled is None:
            check_text(batch)
            return self.token.in_vector(None, kept)
        return self.token.in_vector(
            self.input_dropout(batch.pooled.to(self.token.vector.dtype)), kept
        )


def check_text(batch: Batch) -> None:
    """Raises ValueError when clips have text but the batch has no text vectors."""
    if batch.pooled is None and batch.present["text"].any():
        raise ValueError(
            "the batch has text tokens but no text vector: set Batch.pooled (B, text_dim)"
        )


def head(inputs: int, sizes: Sizes) -> nn.Sequential:
    """y = W2 Dropout(GELU(W1 f)): (B, inputs) -> (B, outputs), linear (docs/paper.md row 13)."""
    return nn.Sequential(
        nn.Linear(inputs, sizes.mlp_width),
        nn.GELU(),
        nn.Dropout(sizes.dropout),
        nn.Linear(sizes.mlp_width, sizes.outputs),
    )


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
