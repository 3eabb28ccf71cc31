"""The compiled model: a model, its universe, its gates, and the means to run it.

It holds the user's model by reference and never changes it: no hooks, no changed `requires_grad` or mode, no copied
weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from circuitgraph.architectures import Family, ModelShape
from circuitgraph.architectures.family import BoundModel
from circuitgraph.batch import TokenBatch
from circuitgraph.compiled.binding import Binding
from circuitgraph.compiled.identity import weights_checksum
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.ablation_values import AblationValues
from circuitgraph.forward.coordinates import CoordinateGates
from circuitgraph.forward.engine.choose import engine_for
from circuitgraph.forward.masked import ALL_COORDINATES, MaskedPass, run_pass
from circuitgraph.forward.pass_plan import Runnable, plan_fixed_pass, plan_pass
from circuitgraph.forward.plan.fixed import FixedPlan
from circuitgraph.forward.plan.spans import check_causal
from circuitgraph.forward.reference import mean_values, read_again, reference_run, zero_values
from circuitgraph.forward.stream.workspace import Workspace
from circuitgraph.forward.vectors import Vector
from circuitgraph.graph.build import build_graph
from circuitgraph.graph.gate_map import GateMap
from circuitgraph.graph.spans import with_spans
from circuitgraph.graph.universe import Universe
from circuitgraph.torch_state import in_settled_state


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CompiledModel:
    """A model, its universe, and the map from edges to gates.

    Attributes:
        model: The user's model, untouched.
        tokenizer: Its tokenizer, if it was loaded with one.
        name: What the model was called.
        revision: Its version, if known.
        config_hash: Hash of its config.
        family: Its family.
        shape: Its sizes.
        universe: What fixes which edges exist.
        gate_map: Which gate each edge has; changed by `with_graph`.
        vectors: What is added to the model, each a writer of the universe; set by `with_vectors`.

    Examples:
        >>> import torch
        >>> from circuitgraph import TokenBatch, compile_model, load_model
        >>> loaded = load_model("tracr:reverse")
        >>> compiled = compile_model(loaded, embeddings="split")
        >>> ids = torch.tensor([loaded.tokenizer.encode_tokens(["3", "1", "2"])])
        >>> batch = TokenBatch(
        ...     input_ids=ids, attention_mask=torch.ones_like(ids), predict_index=torch.tensor([1]),
        ...     predict_prompt=torch.tensor([0]),
        ... )
        >>> everything = torch.ones(compiled.universe.n_edges)
        >>> ran = compiled.masked(everything, batch, compiled.ablation_values("zero"))
        >>> torch.allclose(ran.logits, compiled.logits(batch), atol=1e-4)
        True
    """

    model: nn.Module
    tokenizer: Any
    name: str
    revision: str | None
    config_hash: str
    family: Family
    shape: ModelShape
    universe: Universe
    gate_map: GateMap
    _binding: Binding = field(repr=False)
    vectors: tuple[Vector, ...] = ()
    _workspace: Workspace = field(default_factory=Workspace, repr=False)

    def __repr__(self) -> str:
        universe, edits = self.universe, self.gate_map.edits
        choices = f"embeddings={universe.embeddings}, kv_heads={universe.kv_heads}, qkv={universe.qkv}"
        dtype = str(self.dtype).removeprefix("torch.")
        edited = ", ".join(f"{edits[how]:,} {how}" for how in ("removed", "frozen", "tied") if edits.get(how)) or "none"
        return (
            f"CompiledModel of {self.name} ({universe.family}): {universe.n_layers} layers, {universe.n_heads} heads a "
            f"layer\n"
            f"  graph: {universe.n_edges:,} edges, {universe.n_writers:,} writers, {universe.n_readers:,} readers "
            f"({choices})\n"
            f"  runs: {dtype} on {self.device}\n"
            f"  edges edited: {edited}"
        )

    def _repr_html_(self) -> str:
        from circuitgraph.compiled.card import model_card

        return model_card(self.name, self.revision, self.gate_map)

    @property
    def graph(self) -> nx.DiGraph:
        """The computation graph, freshly built; edit it and hand it to `with_graph`."""
        return build_graph(self.universe, self.identity)

    @property
    def identity(self) -> dict[str, object]:
        """Which model this is, as kept in graphs and circuits; the weights as they are now."""
        return {
            "model": self.name,
            "revision": self.revision,
            "config_hash": self.config_hash,
            "weights": weights_checksum(self.model),
            **self.told_vectors,
        }

    @property
    def told_vectors(self) -> dict[str, dict[str, str]]:
        """Under `vectors` a hash of each vector that is added to the model; empty where there are none."""
        return {"vectors": {vector.name: vector.digest for vector in self.vectors}} if self.vectors else {}

    def with_graph(self, graph: nx.DiGraph) -> CompiledModel:
        """Take an edited copy of `graph` back: removed, frozen and tied edges.

        Args:
            graph: A copy of `self.graph` with edges removed, `frozen=True` set, or `mask` values made equal.

        Returns:
            The same model with another map from edges to gates.

        Raises:
            GraphEditError: The graph has something that the universe lacks.
        """
        return replace(self, gate_map=GateMap.from_graph(self.universe, graph))

    def with_vectors(self, vectors: Iterable[Vector]) -> CompiledModel:
        """The model with vectors added to it, each of them a writer with an edge to all that read later.

        The full model is then the one with the vectors. An edge that is cut leaves its vector out for that reader.

        Args:
            vectors: Instead of those that it has; none gives the model without any.

        Returns:
            The same model with another universe.

        Raises:
            ConfigurationError: A vector of another width, of a layer that there is not, too large for the model's
                number format, or two of one name; or edges of the graph were edited, which has to come after.
        """
        vectors = tuple(vectors)
        if self.gate_map.n_removed or self.gate_map.n_frozen or self.gate_map.edits["tied"]:
            raise ConfigurationError("the graph was edited: add vectors first, and edit the graph that they make then")
        for vector in vectors:
            if len(vector.value) != self.shape.d_model:
                raise ConfigurationError(
                    f"{vector.name} has {len(vector.value)} numbers; the residual stream of {self.name} has "
                    f"{self.shape.d_model}"
                )
            if not bool(vector.value.to(self.dtype).isfinite().all()):
                raise ConfigurationError(f"{vector.name} holds numbers that are too large for {self.dtype}")
        universe = replace(self.universe, virtual=tuple(vector.name for vector in vectors))
        by_name = {vector.name: vector for vector in vectors}
        return replace(
            self, universe=universe, gate_map=GateMap.identity(universe),
            vectors=tuple(by_name[name] for name in universe.virtual), _workspace=Workspace(),
        )  # fmt: skip

    def with_spans(self, spans: Sequence[str], *, asked: Sequence[str]) -> CompiledModel:
        """The same model with a gate of its own for every edge at each span of token positions.

        Prompts then have to say which token is in which span (`TokenBatch.span_ids`).

        Args:
            spans: Names of the spans, in the order in which they follow each other in every prompt.
            asked: Those at which logits are asked.

        Raises:
            ConfigurationError: The names are none, there are spans already, edges were edited, or the model sees tokens
                on both sides.

        Examples:
            >>> from circuitgraph import compile_model, load_model
            >>> compiled = compile_model(load_model("induction-neox"))
            >>> compiled.with_spans(["first", "second"], asked=["second"]).universe.description
            'gpt_neox: 2 layers of 4 heads; block_order=parallel; 2 spans (first, second); 193 edges'
        """
        if any(self.gate_map.edits[how] for how in ("removed", "frozen", "tied")):
            raise ConfigurationError(
                "edges of this graph were removed, frozen or tied, and with spans there would be other edges; take "
                "spans first, then edit the graph of the result"
            )
        check_causal(self.universe, self.shape.causal)
        universe = with_spans(self.universe, spans, asked=asked)
        return replace(self, universe=universe, gate_map=GateMap.identity(universe))

    def with_own_buffers(self) -> CompiledModel:
        """The same model, its weights bound once for both, with buffers of its own for masked passes."""
        return replace(self, _workspace=Workspace())

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModel:
        """The same graph over a copy of the model."""
        model = copy.deepcopy(self.model, memo)
        binding = Binding(model, self.family, name=self.name)
        return replace(self, model=model, _binding=binding, _workspace=Workspace())

    @property
    def bound(self) -> BoundModel:
        """The model's weights in the form of the forward pass.

        Bound again when the model was moved or cast, or a module, weight or buffer of it was replaced. What
        `compile_model` refuses is refused here too.

        Raises:
            UnsupportedModelError: The model is no longer what its config describes, or its config is another than it
                was compiled with.
            ConfigurationError: Vectors are added to the model, which who asks for its weights alone does not know.
        """
        self.require_no_vectors()
        return self._binding.bound()

    @property
    def bound_as_given(self) -> BoundModel:
        """The same with the model's own modules, which multiply as torch does; for who keeps or copies modules."""
        return self._binding.bound_as_given()

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The model's number format."""
        return next(self.model.parameters()).dtype

    @property
    def uses_cpu_kernels(self) -> bool:
        """Whether masked passes are done by the CPU's kernels, see `circuitgraph.forward.engine.choose`."""
        return engine_for(self.device, self.dtype).name == "cpu"

    @in_settled_state
    def logits(self, batch: TokenBatch) -> Float[Tensor, "asked d_vocab"]:
        """The full model's logits at the asked positions; with its vectors, if some are added to it."""
        return reference_run(self._binding.bound(), self.shape, batch, keep=False, vectors=self.vectors)[0]

    @in_settled_state
    def run_with_values(
        self, batch: TokenBatch, *, vectors: bool = True
    ) -> tuple[Float[Tensor, "asked d_vocab"], AblationValues]:
        """The full model's logits, and what every writer says.

        Args:
            batch: Prompts.
            vectors: Whether the vectors that are added to the model are there; not in a run that cut edges carry.
        """
        added = self.vectors if vectors else ()
        logits, values = reference_run(self._binding.bound(), self.shape, batch, vectors=added)
        assert values is not None
        return logits, values

    @in_settled_state
    def whole_values(self, values: AblationValues) -> AblationValues:
        """Ablation values with all that `AblationValues.only_said` left out filled in again.

        Args:
            values: Of a run, whole or not, or constants.
        """
        return values if values.attention else read_again(self._binding.bound(), values, vectors=self.vectors)

    @in_settled_state
    def ablation_values(self, ablation: str, batches: Iterable[TokenBatch] = ()) -> AblationValues:
        """Ablation values that do not depend on the prompt; of the model without vectors that are added to it.

        Args:
            ablation: `zero`, `mean` or `mean-positional`.
            batches: The data set that means are taken over.

        Raises:
            UnknownNameError: No such ablation.
            ConfigurationError: No data to average over, or unequal lengths for means per position.
        """
        if ablation == "zero":
            return zero_values(self._binding.bound(), self.shape, next(self.model.parameters()))
        if ablation in ("mean", "mean-positional"):
            return mean_values(self._binding.bound(), self.shape, batches, per_position=ablation == "mean-positional")
        raise UnknownNameError.of("constant ablation", ablation, ("zero", "mean", "mean-positional"))

    @in_settled_state
    def masked(
        self,
        gates: Float[Tensor, " edge"],
        batch: TokenBatch,
        values: AblationValues,
        *,
        wanted: Bool[Tensor, " edge"] | None = None,
        recompute: bool = False,
        coordinates: CoordinateGates = ALL_COORDINATES,
    ) -> MaskedPass:
        """Run the model with every edge gated.

        Args:
            gates: One gate per edge of the universe; 1 keeps it, 0 ablates it.
            batch: Prompts.
            values: What ablated writers say: `run_with_values(corrupted)[1]`, or `ablation_values`. They know of which
                kind they are.
            wanted: Gates whose gradient is wanted; by default those strictly between 0 and 1.
            recompute: Run MLPs once more in the backward pass instead of keeping what is inside them: less
                memory, more time, the same numbers.
            coordinates: Gates of coordinates of heads and MLPs; they may take a gradient.

        Returns:
            Logits at the asked positions, and how much of the model ran.

        Raises:
            ConfigurationError: The gates are not one per edge, or the values are of another model or of other prompts.
        """
        if gates.shape != (self.universe.n_edges,):
            raise ConfigurationError(
                f"gates must have one entry for each of the universe's {self.universe.n_edges:,} edges; "
                f"got shape {tuple(gates.shape)}"
            )
        model = self.runnable_with_vectors
        plan = plan_pass(model, gates, batch, values, wanted=wanted, everywhere_back=coordinates.learn)
        return run_pass(
            model, plan, gates, batch, values, workspace=self._workspace, recompute=recompute, coordinates=coordinates
        )

    @in_settled_state
    def masked_by_plan(
        self,
        gates: Float[Tensor, " edge"],
        batch: TokenBatch,
        values: AblationValues,
        fixed: FixedPlan,
        *,
        first_differing: int = 0,
        recompute: bool = False,
    ) -> MaskedPass:
        """Run the model, every edge gated, by a plan made beforehand; see `circuitgraph.forward.masked`."""
        model = self.runnable_with_vectors
        plan = plan_fixed_pass(model, batch, values, fixed, first_differing=first_differing)
        return run_pass(model, plan, gates, batch, values, recompute=recompute)

    @property
    def runnable(self) -> Runnable:
        """The model as a pass takes it: weights, sizes, universe; refused where vectors are added to it."""
        return Runnable(bound=self.bound, shape=self.shape, universe=self.universe)

    @property
    def runnable_with_vectors(self) -> Runnable:
        """The same with the vectors that are added to it, for passes that know of them."""
        return Runnable(bound=self._binding.bound(), shape=self.shape, universe=self.universe, vectors=self.vectors)

    def require_no_vectors(self) -> None:
        """Refuse a model that vectors are added to, for what would leave them out.

        Raises:
            ConfigurationError: Vectors are added to it.
        """
        if self.vectors:
            raise ConfigurationError(
                f"vectors are added to {self.name} ({', '.join(self.universe.virtual)}), and this works on models "
                "without any: it would leave them out. Use compiled.with_vectors([])"
            )

    def free_buffers(self) -> None:
        """Give back the memory that masked passes keep from one to the next, and what torch keeps free on a GPU."""
        self._workspace.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
