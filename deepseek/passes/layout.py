"""Layout: where values are stored in another order than row-major.

Every value is dense row-major today, so the pass has nothing to insert. It is the one place where
a channels-last or blocked layout will be chosen: as a VIEW to the new order, moved through
pointwise nodes.
"""

from __future__ import annotations

from deepseek.ir.graph import Graph


def layout(graph: Graph) -> Graph:
    """The graph with layouts chosen: row-major for all."""
    return graph
