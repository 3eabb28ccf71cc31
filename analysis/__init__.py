"""Reading circuits: drawings, reports, curves and comparisons, as plain functions on saved circuits.

Works on `circuitgraph.Circuit` alone and never loads torch, so that a circuit, ours or another tool's, can
be studied on a laptop. Names load their module when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitgraph.lazy import load_on_use

if TYPE_CHECKING:
    from analysis.algebra import complement, difference, intersection, symmetric_difference, union
    from analysis.checkpoints import compare_checkpoints
    from analysis.drawing import circuit_to_dot, draw
    from analysis.drawing.membership import draw_membership
    from analysis.effects import effects_table
    from analysis.explorer import write_explorer
    from analysis.faithfulness import area_under_curves, pareto_front
    from analysis.figures.attention import attention_figure
    from analysis.figures.density import block_density_figure
    from analysis.figures.faithfulness import curves_figure
    from analysis.figures.front import front_figure
    from analysis.figures.inclusion import inclusion_figure
    from analysis.figures.layers import layer_counts_figure
    from analysis.figures.overlap import overlap_figure
    from analysis.figures.scores import scores_figure
    from analysis.figures.style import save_figure
    from analysis.figures.tracing import causal_trace_figure
    from analysis.figures.training import training_figure
    from analysis.figures.transfer import transfer_figure
    from analysis.gates import LogicGates, logic_gates
    from analysis.granularity import coarsen, common_universe
    from analysis.graph_files import write_graph
    from analysis.overlap.families import adjust_p_values
    from analysis.overlap.matrices import cluster, overlap_matrix
    from analysis.overlap.tables import overlap_table, overlap_tests
    from analysis.overlap.weighted import weighted_recall
    from analysis.query.found import find
    from analysis.rankings.mib import cpr_and_cmd, mib_auroc, normalised_faithfulness, with_faithfulness
    from analysis.rankings.truth import auroc, recovery_table
    from analysis.regimes.circuits import read_study
    from analysis.regimes.comparison import compare_regimes
    from analysis.regimes.writing import write_comparison
    from analysis.report import write_report
    from analysis.roles import label_roles
    from analysis.seeds import consensus, inclusion_frequency, seed_intervals, stability_table
    from analysis.sparsity import block_density, score_concentration, sparsity_table
    from analysis.structure.betweenness import betweenness
    from analysis.structure.coarse import coarse_graph
    from analysis.structure.communities import communities
    from analysis.structure.composition import composition, composition_counts
    from analysis.structure.cuts import minimum_edge_cut, minimum_node_cut
    from analysis.structure.hubs import hubs, reachability
    from analysis.structure.motifs import motifs
    from analysis.structure.paths import count_paths, path_counts, strongest_paths
    from analysis.sweep import sweep_stability, sweep_summary, write_sweep
    from analysis.transfer.groups import compare_groups
    from analysis.transfer.matrices import faithfulness_matrix
    from analysis.transfer.writing import Transfer, write_transfer

__all__ = [
    "LogicGates",
    "Transfer",
    "adjust_p_values",
    "area_under_curves",
    "attention_figure",
    "auroc",
    "betweenness",
    "block_density",
    "block_density_figure",
    "causal_trace_figure",
    "circuit_to_dot",
    "cluster",
    "coarse_graph",
    "coarsen",
    "common_universe",
    "communities",
    "compare_checkpoints",
    "compare_groups",
    "compare_regimes",
    "complement",
    "composition",
    "composition_counts",
    "consensus",
    "count_paths",
    "cpr_and_cmd",
    "curves_figure",
    "difference",
    "draw",
    "draw_membership",
    "effects_table",
    "faithfulness_matrix",
    "find",
    "front_figure",
    "hubs",
    "inclusion_figure",
    "inclusion_frequency",
    "intersection",
    "label_roles",
    "layer_counts_figure",
    "logic_gates",
    "mib_auroc",
    "minimum_edge_cut",
    "minimum_node_cut",
    "motifs",
    "normalised_faithfulness",
    "overlap_figure",
    "overlap_matrix",
    "overlap_table",
    "overlap_tests",
    "pareto_front",
    "path_counts",
    "reachability",
    "read_study",
    "recovery_table",
    "save_figure",
    "score_concentration",
    "scores_figure",
    "seed_intervals",
    "sparsity_table",
    "stability_table",
    "strongest_paths",
    "sweep_stability",
    "sweep_summary",
    "symmetric_difference",
    "training_figure",
    "transfer_figure",
    "union",
    "weighted_recall",
    "with_faithfulness",
    "write_comparison",
    "write_explorer",
    "write_graph",
    "write_report",
    "write_sweep",
    "write_transfer",
]

_HOME = {
    "LogicGates": "analysis.gates",
    "Transfer": "analysis.transfer.writing",
    "adjust_p_values": "analysis.overlap.families",
    "area_under_curves": "analysis.faithfulness",
    "attention_figure": "analysis.figures.attention",
    "auroc": "analysis.rankings.truth",
    "betweenness": "analysis.structure.betweenness",
    "block_density": "analysis.sparsity",
    "block_density_figure": "analysis.figures.density",
    "causal_trace_figure": "analysis.figures.tracing",
    "circuit_to_dot": "analysis.drawing",
    "cluster": "analysis.overlap.matrices",
    "coarse_graph": "analysis.structure.coarse",
    "coarsen": "analysis.granularity",
    "common_universe": "analysis.granularity",
    "communities": "analysis.structure.communities",
    "compare_checkpoints": "analysis.checkpoints",
    "compare_groups": "analysis.transfer.groups",
    "compare_regimes": "analysis.regimes.comparison",
    "complement": "analysis.algebra",
    "composition": "analysis.structure.composition",
    "composition_counts": "analysis.structure.composition",
    "consensus": "analysis.seeds",
    "count_paths": "analysis.structure.paths",
    "cpr_and_cmd": "analysis.rankings.mib",
    "curves_figure": "analysis.figures.faithfulness",
    "difference": "analysis.algebra",
    "draw": "analysis.drawing",
    "draw_membership": "analysis.drawing.membership",
    "effects_table": "analysis.effects",
    "faithfulness_matrix": "analysis.transfer.matrices",
    "find": "analysis.query.found",
    "front_figure": "analysis.figures.front",
    "hubs": "analysis.structure.hubs",
    "inclusion_figure": "analysis.figures.inclusion",
    "inclusion_frequency": "analysis.seeds",
    "intersection": "analysis.algebra",
    "label_roles": "analysis.roles",
    "layer_counts_figure": "analysis.figures.layers",
    "logic_gates": "analysis.gates",
    "mib_auroc": "analysis.rankings.mib",
    "minimum_edge_cut": "analysis.structure.cuts",
    "minimum_node_cut": "analysis.structure.cuts",
    "motifs": "analysis.structure.motifs",
    "normalised_faithfulness": "analysis.rankings.mib",
    "overlap_figure": "analysis.figures.overlap",
    "overlap_matrix": "analysis.overlap.matrices",
    "overlap_table": "analysis.overlap.tables",
    "overlap_tests": "analysis.overlap.tables",
    "pareto_front": "analysis.faithfulness",
    "path_counts": "analysis.structure.paths",
    "reachability": "analysis.structure.hubs",
    "read_study": "analysis.regimes.circuits",
    "recovery_table": "analysis.rankings.truth",
    "save_figure": "analysis.figures.style",
    "score_concentration": "analysis.sparsity",
    "scores_figure": "analysis.figures.scores",
    "seed_intervals": "analysis.seeds",
    "sparsity_table": "analysis.sparsity",
    "stability_table": "analysis.seeds",
    "strongest_paths": "analysis.structure.paths",
    "sweep_stability": "analysis.sweep",
    "sweep_summary": "analysis.sweep",
    "symmetric_difference": "analysis.algebra",
    "training_figure": "analysis.figures.training",
    "transfer_figure": "analysis.figures.transfer",
    "union": "analysis.algebra",
    "weighted_recall": "analysis.overlap.weighted",
    "with_faithfulness": "analysis.rankings.mib",
    "write_comparison": "analysis.regimes.writing",
    "write_explorer": "analysis.explorer",
    "write_graph": "analysis.graph_files",
    "write_report": "analysis.report",
    "write_sweep": "analysis.sweep",
    "write_transfer": "analysis.transfer.writing",
}

__getattr__ = load_on_use(__name__, _HOME)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
