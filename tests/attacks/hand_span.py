"""A rule on rows held in memory, as a scene gives it to attackers who know it."""

import torch

import aggregators
from aggregators import Gram


class HandSpan:
    """Honest rows and directions; the rule runs on the Gram of what is sent, n = h + attackers."""

    quick = True

    def __init__(self, honest, directions, rule, *, f, mixing=()):
        self.points = torch.cat([honest.double(), directions.double()])
        self.h, self.width = len(honest), len(self.points)
        self.plan, self.f = aggregators.plan(rule, mixing=list(mixing)), f
        self.calls = 0

    @property
    def gram(self):
        return self.points @ self.points.T

    def weigh(self, coefficients):
        self.calls += 1
        eye = torch.eye(self.h, self.width, dtype=torch.float64)
        mix = torch.cat([eye, coefficients])
        rows = mix @ self.points
        given = Gram.from_inner_products(rows @ rows.T)
        weights = aggregators.weigh(given, self.plan, f=self.f).weights
        return mix.T @ weights

    confirm = weigh


def spanned(honest, rule, *, f, mixing=()):
    """What ``Scene.span`` is."""
    return lambda directions: HandSpan(honest, directions, rule, f=f, mixing=mixing)
