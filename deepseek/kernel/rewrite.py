"""Substitution in statements: a loop variable replaced by a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from deepseek.ir.scalar import Expr, as_expr, substitute
from deepseek.kernel.ir import Fold, Let, Loop, Mma, Prefetch, Stmt, Store


def substitute_body(body: tuple[Stmt, ...], var: Expr, value: Expr | int) -> tuple[Stmt, ...]:
    """The statements with a variable replaced everywhere."""
    mapping = {var: as_expr(value)}
    return tuple(substitute_statement(stmt, mapping) for stmt in body)


def substitute_statement(stmt: Stmt, mapping: Mapping[Expr, Expr]) -> Stmt:
    """The statement with variables replaced; variables that it binds itself stay."""

    def new(e: Expr) -> Expr:
        return substitute(e, mapping)

    match stmt:
        case Let(var, value):
            return Let(var, new(value))
        case Store():
            return replace(
                stmt, index=new(stmt.index), value=new(stmt.value), guard=new(stmt.guard)
            )
        case Loop(axis, body):
            inner = tuple(substitute_statement(s, mapping) for s in body)
            return Loop(replace(axis, extent=new(axis.extent)), inner)
        case Fold():
            return _fold(stmt, mapping)
        case Mma():
            return replace(stmt, a_at=new(stmt.a_at), b_at=new(stmt.b_at), depth=new(stmt.depth))
        case Prefetch(buffer, index):
            return Prefetch(buffer, new(index))
        case _:
            return stmt


def _fold(stmt: Fold, mapping: Mapping[Expr, Expr]) -> Fold:
    def new(e: Expr) -> Expr:
        return substitute(e, mapping)

    axes = tuple(replace(a, extent=new(a.extent)) for a in stmt.axes)
    carries = tuple(
        replace(c, init=new(c.init), step=new(c.step), merge=new(c.merge)) for c in stmt.carries
    )
    body = tuple(
        Let(s.var, new(s.value)) if isinstance(s, Let) else Prefetch(s.buffer, new(s.index))
        for s in stmt.body
    )
    prefix = tuple(
        replace(s, index=new(s.index), value=new(s.value), guard=new(s.guard)) for s in stmt.prefix
    )
    return replace(stmt, axes=axes, carries=carries, body=body, prefix=prefix)
