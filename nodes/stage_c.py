"""Stage C: CONDITIONING -> semantic latent, and the times at which it is sampled."""

from typing import Any

from comfy_api.latest import io

from . import host

LARGEST_SIDE = 8192
STEPS = "Number of steps; used only if times is uniform (published takes 29)."
SPACING = (
    "published: the list of 29 steps that the model was released with (steps is not read); "
    "uniform: steps that are evenly spaced."
)


class EmptyLatent(io.ComfyNode):
    """Where Stage C starts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"min": 128, "max": LARGEST_SIDE, "step": 1}
        return io.Schema(
            node_id="WuerstchenEmptyLatent",
            display_name="Würstchen Empty Latent",
            category="Würstchen",
            description="An empty latent for Stage C: 3 cells per 128 pixels, 16 channels. A size "
            "that is no multiple of 128 is painted at the next larger one and cropped.",
            inputs=[
                io.Int.Input(
                    "width",
                    default=1024,
                    **side,
                    tooltip="Width of the picture in pixels, at least 128. Use 256 with the "
                    "bundled model.",
                ),
                io.Int.Input(
                    "height",
                    default=1024,
                    **side,
                    tooltip="Height of the picture in pixels, at least 128. Use 256 with the "
                    "bundled model.",
                ),
                io.Int.Input(
                    "batch",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="Number of pictures. Picture i (counted from 0) uses seed + i.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="Empty, for Stage C Sampler.")
            ],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch: int) -> io.NodeOutput:
        return io.NodeOutput(host.empty_semantic(width, height, batch))


class StageCSampler(io.ComfyNode):
    """The prior: from noise to a semantic latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenStageCSampler",
            display_name="Würstchen Stage C Sampler",
            category="Würstchen",
            description="Paints the semantic latent, which holds what the picture shows and where, "
            "from a prompt.",
            inputs=[
                io.Model.Input("model", tooltip="Stage C, from Load Prior."),
                io.Conditioning.Input(
                    "positive", tooltip="What to paint, encoded with the clip of Load Prior."
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="What to avoid, encoded with the clip of Load Prior; usually empty "
                    "text. Used only if guidance is above 1.",
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="From Empty Latent, or a Stage C latent to paint over, such as one "
                    "of Stage C Encode.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=host.LARGEST_SEED,
                    control_after_generate=True,
                    tooltip="Another seed gives another picture of the same prompt.",
                ),
                io.Int.Input("steps", default=29, min=1, max=1000, tooltip=STEPS),
                io.Float.Input(
                    "guidance",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How closely the prompt is followed; 1 or less turns guidance off.",
                ),
                io.Combo.Input("times", options=host.SPACINGS, tooltip=SPACING),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of a given latent is painted anew; 1 is all.",
                ),
                io.Sampler.Input(
                    "sampler",
                    optional=True,
                    tooltip="One of ComfyUI's samplers in place of the model's own (DDPM).",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="In place of steps, times and denoise; from Times or a scheduler.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="A Stage C latent, for Stage B Decode."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        seed: int,
        steps: int,
        guidance: float,
        times: str,
        denoise: float,
        sampler: Any = None,
        sigmas: Any = None,
    ) -> io.NodeOutput:
        if sigmas is None:
            sigmas = host.chosen_sigmas(times, steps, denoise)
        return io.NodeOutput(
            host.sample(model, positive, negative, latent, seed, guidance, sigmas, sampler)
        )


class Times(io.ComfyNode):
    """The times of a run, for the host's own samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WuerstchenTimes",
            display_name="Würstchen Times",
            category="Würstchen",
            description="The times at which Stage C or Stage B is sampled, as sigmas for "
            "ComfyUI's custom samplers. Time 1 is noise, time 0 is the picture.",
            inputs=[
                io.Int.Input("steps", default=29, min=1, max=1000, tooltip=STEPS),
                io.Combo.Input("times", options=host.SPACINGS, tooltip=SPACING),
                io.Float.Input(
                    "start",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="First time; below 1 a given latent is painted over.",
                ),
                io.Float.Input(
                    "end",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Last time; above 0 noise is left for another sampler.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustom.")],
        )

    @classmethod
    def execute(cls, steps: int, times: str, start: float, end: float) -> io.NodeOutput:
        return io.NodeOutput(host.chosen_sigmas(times, steps, start, end))
