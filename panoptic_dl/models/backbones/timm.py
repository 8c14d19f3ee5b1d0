"""timm's image encoders (Wightman 2019, "PyTorch Image Models") by name, as Detectron2 backbones.

Strides, channels and pixel statistics are timm's. Whatever fails for an encoder is said when it is
built: a small image goes through it once. Shapes: N batch, C channels, H W pixels.
"""

import difflib
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid
from detectron2.utils import comm
from torch import Tensor, nn

from panoptic_dl.core.errors import PartError, WeightsError
from panoptic_dl.core.settings import require_value
from panoptic_dl.models.backbones.layers import freeze, select_features

try:
    import timm
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from timm.layers import convert_sync_batchnorm
    from timm.layers.norm_act import freeze_batch_norm_2d
except ModuleNotFoundError as error:
    raise PartError(
        f"backbones of timm need an extra: pip install 'panoptic-dl[timm]' ({error})"
    ) from error

PYRAMID_CHANNELS = 256  # of every feature that is made of a plain ViT's, as in ViTDet
CHANGING = ("HighResolutionNet", "RDNet")  # their blocks write to the list that they are given
NO_STRIDE = (
    "leave output_stride out, or choose an encoder that can be of stride 8, 16 and 32, such as "
    "ResNets, RegNets, ConvNeXts, EfficientNets and MobileNets"
)
TRIAL = (96, 160)  # pixels; 3 x 5 at stride 32, which no window of attention divides

logger = logging.getLogger(__name__)


def _synchronize(encoder: nn.Module) -> nn.Module:
    """Synchronize batch normalization of images in several processes; not that of sequences."""
    if comm.get_world_size() == 1:  # where timm's layers would not do
        return encoder
    others = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.BatchNorm1d)}
    encoder = convert_sync_batchnorm(encoder)
    for name, module in others.items():
        encoder.set_submodule(name, module)
    return encoder


# What `norm` makes of an encoder's batch normalization; other layers stay as they are.
NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "SyncBN": _synchronize,
    "BN": lambda encoder: encoder,
    "FrozenBN": freeze_batch_norm_2d,
}


class TimmBackbone(Backbone):
    """An encoder of timm, with features of stride 4 and more: res2, res3, ..., fine to coarse.

    A plain vision transformer has one stride. Its last feature becomes p2, p3, p4 and p5 of strides
    4 to 32 in Detectron2's `SimpleFeaturePyramid` (Li et al. 2022, ViTDet), which is trained from
    scratch; position embeddings are resized to the image. Patches of other sides than 8 and 16,
    such as DINOv2's 14, see an image that is resized until each of them covers 16 pixels.

    Args:
        name: one of `timm.list_models()`, with or without the tag of its weights, such as
            `convnext_tiny.fb_in22k`.
        pretrained: whether a training that is given no other weights starts from timm's, which are
            fetched once. Building the backbone loads nothing.
        output_stride: the coarsest stride, 8, 16 or 32, for encoders that can dilate their
            convolutions instead of striding; None: the encoder's own.
        norm: what becomes of batch normalization: "SyncBN", "BN" or "FrozenBN".
        freeze_at: 0 freezes nothing, 1 the stem, 2 also what makes res2, and so on, as in
            Detectron2; of a plain ViT 1 the embedding, 2 to 5 its blocks, a quarter each.
        drop_path_rate: stochastic depth (Huang et al. 2016) of the last block.
        out_features: which of the features to return; None: all.

    Raises:
        PartError: timm has no such encoder, it gives no features of several strides, takes images
            of one size only, or does not know one of the options.
        ValueError: an unknown feature or norm, or a stage that is none.
    """

    size_divisibility = 32
    encoder: Any  # timm's network, with timm's names of parameters

    def __init__(
        self,
        *,
        name: str | None,
        pretrained: bool = False,
        output_stride: int | None = None,
        norm: str = "SyncBN",
        freeze_at: int = 0,
        drop_path_rate: float = 0.0,
        out_features: Sequence[str] | None = None,
    ):
        super().__init__()
        require_value("backbone.drop_path_rate", drop_path_rate, float, least=0, below=1)
        require_value("backbone.norm", norm, str, [*NORMS])
        self.name, self.pretrained, self.pyramid = str(name or ""), pretrained, None
        options: dict[str, Any] = {"output_stride": output_stride} if output_stride else {}
        if drop_path_rate:
            options["drop_path_rate"] = drop_path_rate
        encoder = _create(self.name, options)
        info: Any = [*encoder.feature_info]
        strides = [level["reduction"] for level in info]
        if len({*strides}) == 1:
            # Patches of other sides than 8 and 16 see a resized image.
            stride = strides[0] if strides[0] in (8, 16) else 16
            self.zoom = strides[0] / stride
            self.stages = [info[len(info) * i // 4 - 1]["module"] for i in (1, 2, 3, 4)]
            self.indices = [len(info) - 1]
            self.pyramid = SimpleFeaturePyramid(
                net=_Given(ShapeSpec(channels=info[-1]["num_chs"], stride=stride)),
                in_feature="last",
                out_channels=PYRAMID_CHANNELS,
                scale_factors=[f for f in (4.0, 2.0, 1.0, 0.5) if stride / f >= 4],
            )
            features = self.pyramid.output_shape()
        else:
            levels = [i for i, stride in enumerate(strides) if stride >= 4]
            self.stages = [info[i]["module"] for i in levels]
            first = int(math.log2(strides[levels[0]]))
            features = {
                f"res{first + n}": ShapeSpec(channels=info[i]["num_chs"], stride=strides[i])
                for n, i in enumerate(levels)
            }
        select_features(self, features if out_features is None else out_features, features)
        if self.pyramid is None:
            chosen = zip(features, levels, strict=True)
            self.indices = [i for name, i in chosen if name in self._out_features]
        if hasattr(encoder, "prune_intermediate_layers"):  # what comes after the features
            encoder.prune_intermediate_layers([*self.indices], prune_norm=True, prune_head=True)
        self.encoder = NORMS[norm](encoder)
        # RGB in units of 0..255
        self.pixel_mean, self.pixel_std = (
            [255 * value for value in encoder.pretrained_cfg[key]] for key in ("mean", "std")
        )
        self.size_divisibility = max(32, *(shape.stride for shape in features.values()))
        self._try(output_stride)
        self._freeze(freeze_at)
        shapes = [f"{n} {s.channels} (stride {s.stride})" for n, s in self.output_shape().items()]
        pixels = [[round(x, 3) for x in values] for values in (self.pixel_mean, self.pixel_std)]
        logger.info(
            "timm's %s: channels %s; RGB, mean %s, std %s", name, ", ".join(shapes), *pixels
        )

    @property
    def recomputable_blocks(self) -> list[nn.Module]:
        """Parts that `train.activation_checkpointing` may run twice."""
        if type(self.encoder).__name__ in CHANGING:
            return []
        roots = {stage.partition(".")[0] for stage in self.stages}
        parts = [module for name, module in self.encoder.named_children() if name in roots]
        return [block for part in parts for block in _blocks(part)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalized images -> {name: (N, C, H/stride, W/stride)}, fine to coarse.

        H and W are multiples of `size_divisibility`.
        """
        if self.pyramid is not None and self.zoom != 1:
            x = F.interpolate(x, scale_factor=self.zoom, mode="bilinear", antialias=True)
        if hasattr(self.encoder, "forward_intermediates"):
            levels = self.encoder.forward_intermediates(
                x, indices=self.indices, norm=False, output_fmt="NCHW", intermediates_only=True
            )
        else:
            every = self.encoder(x)
            levels = [every[i] for i in self.indices]
        if self.pyramid is not None:
            features = self.pyramid(levels[0])
            return {name: features[name] for name in self._out_features}
        return dict(zip(self._out_features, levels, strict=True))

    @torch.no_grad()
    def _try(self, output_stride: int | None) -> None:
        """Raise PartError unless features have the shapes that timm states, for a small image."""
        shapes = self.output_shape()
        coarsest = max(self._out_feature_strides.values())
        if output_stride not in (None, coarsest):
            raise PartError(
                f"timm's {self.name} has stride {coarsest} with output_stride={output_stride}: "
                f"{NO_STRIDE}"
            )
        height, width = (side * self.size_divisibility // 32 for side in TRIAL)
        image = next(self.encoder.parameters()).new_zeros(1, 3, height, width)
        try:
            found = {name: tuple(x.shape) for name, x in self.eval()(image).items()}
        except Exception as error:
            raise PartError(
                f"timm's {self.name} does not take images of any size, choose another name: "
                f"{height} x {width} pixels end in {type(error).__name__} "
                + str(error).partition("\n")[0]
            ) from error
        self.train()
        stated = {
            name: (1, shape.channels, height // shape.stride, width // shape.stride)
            for name, shape in shapes.items()
        }
        if found != stated:
            raise PartError(
                f"timm's {self.name} gives no pyramid of features: they are {found}, not {stated}"
            )

    def _freeze(self, freeze_at: int) -> None:
        """Freeze the encoder up to a stage."""
        if freeze_at not in range(len(self.stages) + 2):
            raise ValueError(
                f"freeze_at={freeze_at}: timm's {self.name} has 0 (nothing), 1 (the stem) to "
                f"{len(self.stages) + 1} (all of it)"
            )
        if freeze_at == 0:
            return
        stage = self.stages[max(freeze_at - 2, 0)]
        modules = dict(self.encoder.named_modules())  # in the order of use
        inside = [i for i, name in enumerate(modules) if f"{name}.".startswith(f"{stage}.")]
        if not inside:
            raise ValueError(f"freeze_at={freeze_at}: timm's {self.name} has no part {stage}")
        until = inside[0] if freeze_at == 1 else inside[-1] + 1
        freeze(self.encoder, [*modules][:until], freeze_batch_norm_2d)

    def convert_names(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tensors of a file for this encoder by the names of today's timm.

        timm converts files of its earlier versions, and those of an encoder's authors, when it
        loads them; the function that does is asked where names are missing.
        """
        convert = getattr(sys.modules[type(self.encoder).__module__], "checkpoint_filter_fn", None)
        if convert is None or self.encoder.state_dict().keys() <= tensors.keys():
            return tensors
        with torch.device("meta"):  # with its head, which a conversion may look at
            whole = timm.create_model(self.name)
        try:
            return convert(dict(tensors), whole)
        except Exception:  # not a file of this encoder, as names will show
            return tensors

    def fetch_pretrained(self) -> Path:
        """The file of timm's weights, cached or fetched now; WeightsError if there is none."""
        cfg = self.encoder.pretrained_cfg
        repository = cfg.get("hf_hub_id")
        if not repository:
            raise WeightsError(
                f"backbone.pretrained=true: timm has no weights of {self.name}; names with weights "
                f"are {_near(self.name, timm.list_pretrained())}"
            )
        file = cfg.get("hf_hub_filename") or "model.safetensors"
        cached = try_to_load_from_cache(repository, file)  # at once where there is no network
        try:
            return Path(cached if isinstance(cached, str) else hf_hub_download(repository, file))
        except Exception as error:  # of the network, in as many ways as there are
            raise WeightsError(
                f"backbone.pretrained=true: {file} of {repository} cannot be fetched "
                f"({type(error).__name__}). Where there is a network, get "
                f"https://huggingface.co/{repository}/resolve/main/{file} and start with "
                f"weights={file}; or fill the cache there, and set HF_HOME to its folder"
            ) from error


class _Given(Backbone):
    """Stands where Detectron2's pyramid has a backbone: its feature is given."""

    def __init__(self, shape: ShapeSpec):
        super().__init__()
        self.shape = shape

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"last": self.shape}

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        return {"last": feature}


def _create(name: str, options: Mapping[str, Any]) -> Any:
    """Make timm's network, for images of any size where it can; PartError if there is none."""
    architecture, _, tag = name.partition(".")
    with_weights = timm.list_pretrained()
    if not timm.is_model(architecture) or (tag and name not in with_weights):
        names = [*timm.list_models(), *with_weights]
        meant = f"timm {timm.__version__} has no {name}. Did you mean: {_near(name, names)}?"
        none = f"backbone.name= chooses one of timm's {len(names)}, such as convnext_tiny.fb_in22k"
        raise PartError(meant if name else none)
    ways: list[dict[str, Any]] = [{"num_classes": 0, "dynamic_img_size": True}, {"num_classes": 0}]
    if "output_stride" in options:  # which EfficientNets know in their networks without a head
        ways.append({"features_only": True})
    for way in ways:
        try:
            encoder: Any = timm.create_model(name, **way, **options)
            break
        except Exception as error:
            # TypeError: it does not know an option
            if way is ways[-1] or not isinstance(error, TypeError):
                given = " ".join(f"{key}={value}" for key, value in options.items())
                hint = f": {NO_STRIDE}" if "output_stride" in options else ""
                raise PartError(
                    f"timm's {name} cannot be made{f' with {given}' if given else ''} "
                    f"({type(error).__name__}: {error}){hint}"
                ) from error
    if not getattr(encoder, "feature_info", None):
        raise PartError(f"timm's {name} gives no features: choose another name")
    return encoder


def _near(name: str, names: Sequence[str]) -> str:
    """The names that resemble one."""
    return ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.3))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The innermost blocks in lists of blocks, without layers that may write to their input."""
    inner = getattr(module, "blocks", module)
    if isinstance(inner, nn.Sequential | nn.ModuleList):
        for child in inner.children():
            yield from _blocks(child)
    elif any(True for _ in module.parameters()):
        yield module
