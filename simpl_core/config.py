"""Every hyper-parameter of every stage, with the named presets, in one table.

`official` is what the papers' public code ran on the Franka kitchen, `fast` the shortest schedule that keeps most
of its quality on two cores, `small` goes through a stage in a minute or two to show that everything works. Names that
begin with a domain, such as `maze-official`, are its versions of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from simpl_core.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class SkillsConfig:
    """Phase 1: skills, skill decoder and skill prior from demonstrations."""

    horizon: int = 10
    """H, control steps a skill lasts."""
    state_dim: int = 30
    """Leading observation numbers that are the state (D4RL's kitchen appends a constant goal)."""
    z_dim: int = 10
    """Size of a skill z."""
    hidden: int = 128
    """Width of every layer."""
    decoder: Literal["closed", "open"] = "closed"
    """Closed loop: an MLP that sees the state at every control step. Open loop: an LSTM that says all H actions of a
    skill at its start (SPiRL's first kind; not for robots)."""
    decoder_middle: int = 5
    """BatchNorm layers of the closed-loop decoder."""
    prior_middle: int = 6
    """BatchNorm layers of the prior."""
    beta: float = 5e-4
    """Weight of KL(q(z | s, a) || N(0, I)), averaged over z."""
    sensor_noise: float = 0.0
    """Factor on the environment's sensor noise, added to what decoder and prior see; for demonstrations that were
    recorded with less noise than the robot will have."""
    recovery: float = 0.0
    """Factor on the same noise for the decoder alone, which then learns to take the error back within the step and so
    holds the demonstrated course under noise and drift; 0 shows it `sensor_noise`, with the actions as recorded. An
    open-loop decoder sees no state and cannot."""
    prior_loss: Literal["nll", "kl"] = "nll"
    """Fit the prior to detached samples (the code) or by KL(q || p) (the paper)."""
    batch_size: int = 128
    """Windows a step."""
    iterations: int = 480_000
    """Optimiser steps on encoder, decoder and prior together."""
    prior_iterations: int = 0
    """Steps after them on the prior alone, against the settled encoder: cheap, but few windows are soon overfitted."""
    prior_batch_size: int = 512
    """Windows a step of those."""
    learning_rate: float = 1e-3
    """Initial rate of RAdam."""
    final_rate_fraction: float = 1.0
    """Rate at the end, as a fraction; the decay is a cosine. 1 keeps it constant."""
    held_out_fraction: float = 0.05
    """Episodes kept aside to judge reconstruction and prior."""
    precision: Precision = "float32"
    """Of what is between the first and the last layer of each network; weights, losses and judging stay in float32.
    bfloat16 is faster on processors with AMX and on GPUs, and slower elsewhere."""
    log_every: int = 500
    """Steps between two lines of metrics."""
    checkpoint_every: int = 5_000
    """Steps between two resumable states on disk."""


@dataclass(frozen=True)
class MetaConfig:
    """Phase 2: task encoder, skill policy and critics across the training tasks."""

    hidden: int = 128
    """Width of policy and critics."""
    layers: int = 5
    """Hidden layers of policy and critics."""
    critics: int = 2
    """Size of the critic ensemble."""
    e_dim: int = 6
    """Size of a task embedding e."""
    encoder_hidden: int = 128
    """Width of the task encoder."""
    alpha_1: float = 0.05
    """Initial weight of the policy's KL to the skill prior where e comes from a small context."""
    delta_1: float = 0.1
    """Target divergence with small contexts."""
    alpha_2: float = 0.03
    """The same weight where e comes from a large context."""
    delta_2: float = 4.0
    """Target divergence with large contexts."""
    encoder_weight_small: float = 1e-3
    """Initial weight of KL(q(e | c) || N(0, I)) with small contexts."""
    encoder_target_small: float = 2.0
    """Its target."""
    encoder_weight_large: float = 1e-4
    """The same with large contexts, one weight per task."""
    encoder_target_large: float = 10.0
    """Its target."""
    kl_clip: float = 6.0
    """Largest policy KL that the critic's target subtracts."""
    tasks_small: int = 3
    """Tasks a step with small contexts, drawn with replacement."""
    tasks_large: int = 27
    """Tasks a step with large contexts."""
    tasks_mixed: int = 0
    """Of those, how many have contexts of all episodes, also those made with e from the posterior. The papers' have
    none; with some, the encoder can read what is done after conditioning."""
    context_small: int = 2
    """Skill transitions in a small context."""
    context_large: int = 1024
    """Skill transitions in a large context."""
    context_kept: int = 0
    """Of those, as many as the encoder reads, the rewarded ones before others; 0 is all. Where rewards are rare, a few
    hundred say what thousands do at a fraction of the cost."""
    standardise: bool = False
    """Begin training as if states were standardised: first layers are rescaled once, to the states that warm-up met.
    For states of other sizes than 1, beside which the networks hardly see e and z."""
    share_episodes: bool = False
    """Judge every episode by all tasks' rewards instead of its own task's alone, where the environment can: all see
    what one does (the papers' agents only learn from a task's own episodes)."""
    own_fraction: float = 0.0
    """Of a batch of a task, the part drawn from its own episodes alone; the rest comes from all that it has. Shared
    episodes soon outnumber its own, which alone tell the critics what the policy's present choices lead to."""
    batch_size: int = 256
    """Skill transitions per task and step."""
    buffer_size: int = 3000
    """Skill transitions kept per task for the critics."""
    encoder_buffer_size: int = 3000
    """Skill transitions kept per task for contexts; only episodes made with e from the prior."""
    reuse: float = 256.0
    """Gradient samples per new skill transition and task drawn: sets the number of steps an epoch."""
    epochs: int = 500
    """Each: two episodes per task."""
    imitate: float = 0.0
    """Weight of self-imitation with large contexts: skills of the replay that the critics hold better than the policy's
    own pull it towards them, however far they are. The papers' have none."""
    learning_rate: float = 3e-4
    """Adam, for every network and weight."""
    gamma: float = 0.99
    """Discount per skill."""
    tau: float = 0.005
    """Rate of the target critics."""
    bound_targets: bool = False
    """Let no target of the critics promise more than the best return that an episode of its task has had, as in phase
    3. Where few episodes earn anything, the critics otherwise come to believe in their own errors first."""
    precision: Precision = "float32"
    """Of the hidden layers of policy and critics in gradient steps; weights, first and last layers, encoder, losses and
    rollouts stay in float32. bfloat16 is faster on processors with AMX and on GPUs, and slower elsewhere."""
    checkpoint_every: int = 5
    """Epochs between two resumable states on disk."""


@dataclass(frozen=True)
class AdaptConfig:
    """Phase 3: fine-tuning on one unseen task with e* fixed."""

    hidden: int = 128
    """Width of SPiRL's policy and critics where no meta-trained run tells their sizes."""
    layers: int = 5
    """Hidden layers of those."""
    critics: int = 2
    """Size of that critic ensemble."""
    conditioning_episodes: int = 20
    """Episodes with e ~ N(0, I) before e* = mean of q(e | all their transitions)."""
    explore_on: int = 0
    """At most so many more while none of them has earned anything: what e* is read from should hold a reward. They
    count as the first episodes of fine-tuning."""
    explore_with: Literal["policy", "prior"] = "policy"
    """Who acts in them: the policy with e ~ N(0, I) (the papers), or the skill prior, which covers more."""
    episodes: int = 180
    """Episodes of fine-tuning after them."""
    temperature: float = 1.0
    """Factor on the scale of the policy's skills that fine-tuning cools down to, see `skill_temperature`: where a task
    is learned, what is left of the noise costs episodes. The papers sample from the policy throughout."""
    cool_over: int = 30
    """Episodes of fine-tuning until it is that cool."""
    batch_size: int = 256
    """Skill transitions a step; training waits until so many are there."""
    buffer_size: int = 20_000
    """Skill transitions kept."""
    reuse: float = 256.0
    """Gradient samples per new skill transition: sets the number of steps after an episode."""
    use_conditioning: bool = True
    """Start with the conditioning episodes in the buffer; the papers' code starts empty."""
    delta: float = 5.0
    """Target divergence from the skill prior."""
    alpha: float | None = None
    """Initial weight of that KL; None takes the meta-trained alpha_2."""
    alpha_rate: float = 3e-4
    """Adam's rate for alpha."""
    alpha_only_grows: bool = True
    """Never weaken the regularisation (SiMPL); SPiRL lets it move both ways."""
    kl_clip: float = 20.0
    """Largest policy KL that the critic's target subtracts."""
    learning_rate: float = 3e-4
    """Adam, for policy and critics."""
    gamma: float = 0.99
    """Discount per skill."""
    tau: float = 0.005
    """Rate of the target critics."""
    bound_targets: bool = False
    """Let no target of the critics promise more than the best return that an episode of the task has had; the papers'
    have no bound, and where they chase their own errors the run is lost."""


_MAZE_SKILLS = SkillsConfig(state_dim=4, beta=1e-2)
_MAZE_META = MetaConfig(
    hidden=256,
    layers=3,
    e_dim=5,
    alpha_1=3e-3,
    delta_1=0.5,
    alpha_2=1e-3,
    delta_2=1.0,
    encoder_weight_small=1e-5,
    encoder_target_small=1.0,
    encoder_weight_large=3e-6,
    kl_clip=5.0,
    tasks_small=4,
    tasks_large=26,
    context_small=4,
    context_large=8192,
    batch_size=1024,
    buffer_size=20_000,
    encoder_buffer_size=20_000,
    epochs=1000,
)
_MAZE_META_FAST = replace(
    _MAZE_META,
    epochs=40,
    e_dim=6,
    alpha_1=6e-3,
    alpha_2=3e-3,
    encoder_weight_large=3e-5,
    tasks_large=20,
    context_large=4096,
    context_kept=32,
    standardise=True,
    share_episodes=True,
    batch_size=64,
    reuse=20.0,
    tau=0.02,
)
_MAZE_ADAPT = AdaptConfig(hidden=256, layers=3, episodes=280, delta=1.0, kl_clip=5.0)

SKILLS_PRESETS: dict[str, SkillsConfig] = {
    "official": SkillsConfig(),
    "fast": SkillsConfig(iterations=40_000, final_rate_fraction=0.02, sensor_noise=1.0, recovery=3.0),
    "small": SkillsConfig(
        iterations=2_500,
        final_rate_fraction=0.02,
        sensor_noise=1.0,
        recovery=3.0,
        log_every=250,
        checkpoint_every=500,
    ),
    "maze-official": _MAZE_SKILLS,
    "maze-fast": replace(_MAZE_SKILLS, iterations=9_000, final_rate_fraction=0.02, prior_iterations=12_000),
    "maze-small": replace(
        _MAZE_SKILLS, iterations=2_500, final_rate_fraction=0.02, log_every=250, checkpoint_every=500
    ),
}
META_PRESETS: dict[str, MetaConfig] = {
    "official": MetaConfig(),
    "fast": MetaConfig(
        alpha_2=0.01,
        tasks_small=2,
        tasks_large=14,
        tasks_mixed=4,
        context_large=512,
        context_kept=64,
        share_episodes=True,
        imitate=0.1,
        own_fraction=0.5,
        batch_size=128,
        buffer_size=20_000,
        encoder_buffer_size=10_000,
        reuse=256.0,
        epochs=75,
        gamma=0.97,
        tau=0.02,
    ),
    "small": MetaConfig(
        epochs=4, context_large=128, tasks_small=2, tasks_large=6, batch_size=64, reuse=16.0, checkpoint_every=1
    ),
    "maze-official": _MAZE_META,
    "maze-fast": _MAZE_META_FAST,
    "maze-small": replace(
        _MAZE_META_FAST, epochs=2, context_large=512, tasks_small=2, tasks_large=6, reuse=1.0, checkpoint_every=1
    ),
}
ADAPT_PRESETS: dict[str, AdaptConfig] = {
    "official": AdaptConfig(use_conditioning=False),
    "fast": AdaptConfig(batch_size=128, reuse=512.0, gamma=0.97, tau=0.02, temperature=0.5, bound_targets=True),
    "small": AdaptConfig(conditioning_episodes=4, episodes=6, batch_size=64),
    "spirl": AdaptConfig(
        conditioning_episodes=0, episodes=200, alpha=1.0, alpha_rate=3e-3, alpha_only_grows=False, kl_clip=10.0
    ),
    "maze-official": replace(_MAZE_ADAPT, episodes=980, use_conditioning=False),
    "maze-fast": replace(
        _MAZE_ADAPT,
        batch_size=128,
        reuse=128.0,
        tau=0.02,
        bound_targets=True,
        explore_on=20,
        explore_with="prior",
    ),
    "maze-small": replace(_MAZE_ADAPT, conditioning_episodes=4, episodes=6, batch_size=64, reuse=16.0),
    "maze-spirl": replace(
        _MAZE_ADAPT,
        batch_size=128,
        reuse=128.0,
        conditioning_episodes=0,
        episodes=300,
        alpha=0.05,
        alpha_rate=3e-3,
        alpha_only_grows=False,
        kl_clip=10.0,
    ),
}

Stage = TypeVar("Stage", SkillsConfig, MetaConfig, AdaptConfig)


def skill_temperature(made: int, temperature: float, cool_over: int) -> float:
    """Factor on the scale of pi(z | s, e) after `made` episodes of fine-tuning: from 1 to `temperature` in a line."""
    return 1.0 + (temperature - 1.0) * min(1.0, made / max(1, cool_over))


def preset(table: Mapping[str, Stage], name: str, **changes: Any) -> Stage:
    """The named preset with some fields replaced.

    Raises:
        ConfigError: unknown preset or field; the message lists what exists.
    """
    if name not in table:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(table)}")
    return from_dict(type(table[name]), {**dataclasses.asdict(table[name]), **changes})


def of_domain(domain: str, name: str) -> str:
    """Name of a domain's version of a preset; the kitchen's have none before them."""
    return name if domain == "kitchen" else f"{domain}-{name}"


def by_domain(table: Mapping[str, Stage]) -> dict[str, dict[str, Stage]]:
    """Presets by domain and plain name; a name without a domain before it is the kitchen's."""
    found: dict[str, dict[str, Stage]] = {}
    for name, value in table.items():
        domain, separator, plain = name.partition("-")
        found.setdefault(domain if separator else "kitchen", {})[plain or name] = value
    return found


def from_dict(stage: type[Stage], values: Mapping[str, Any]) -> Stage:
    """A configuration from saved values.

    Raises:
        ConfigError: a key that the stage does not have, or a value of another kind than the key's.
    """
    kinds = get_type_hints(stage)
    unknown = sorted(set(values) - set(kinds))
    if unknown:
        raise ConfigError(f"{stage.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(kinds))}")
    return stage(**{name: _of_kind(value, kinds[name], name) for name, value in values.items()})


def _of_kind(value: Any, kind: Any, name: str) -> Any:
    """`value`, if it is one that a field of type `kind` may have; 1e3 is a whole number."""
    choices = get_args(kind)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if get_origin(kind) is Literal:
        fits, wanted = value in choices, f"one of {', '.join(choices)}"
    elif kind is bool:
        fits, wanted = isinstance(value, bool), "true or false"
    elif kind is int:
        fits, wanted = number and value == int(value), "a whole number"
        value = int(value) if fits else value
    else:
        optional = type(None) in choices
        fits, wanted = number or (optional and value is None), f"a number{' or null' if optional else ''}"
    if not fits:
        raise ConfigError(f"{name} is {value!r}; it must be {wanted}")
    return value
