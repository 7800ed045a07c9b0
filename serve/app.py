"""`serve run serve.app:build bundle=/absolute/path`: one router stage in front of one deployment per expert."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from sentiment.bundle import Bundle, load_bundle
from sentiment.errors import SetupError
from serve.capacity import demands_of, explain_shortage
from serve.http_request import HttpLimits
from serve.replica import ExpertReplica
from serve.router_stage import RouterStage, StageLimits
from serve.served_bundle import CallLimits
from serve.settings import ServeSettings, bundle_path, read_serve_settings

log = logging.getLogger(__name__)

HEALTH_CHECK_PERIOD_S = 2.0
"""a dead replica is noticed, and another one started, within this time [s]"""
START_ATTEMPTS = 3
"""a replica that fails its self-test this often is an error of the deployment [attempts]"""


def build(args: Mapping[str, object]) -> Application:
    """The application for `serve run`; `args` are the fields of ServeSettings.

    Raises:
        ConfigError: an argument is unknown or impossible; the message names it and the nearest valid one.
        BundleError: the bundle cannot be served.
        SetupError: the cluster is too small.
    """
    return build_application(read_serve_settings(args))


def build_application(settings: ServeSettings) -> Application:
    """Deployments bound together from settings.

    Raises:
        ConfigError: no bundle at `settings.bundle`.
        BundleError: the bundle cannot be served.
        SetupError: the cluster is too small.
    """
    bundle = load_bundle(bundle_path(settings.bundle))
    check_capacity(settings, bundle)
    where = {"bundle_path": str(bundle.path), "bundle_id": bundle.manifest.bundle_id}
    experts = {
        name: serve.deployment(
            name=expert_deployment_name(name, bundle.manifest.bundle_id),
            num_replicas=settings.expert_replicas,
            ray_actor_options={"num_cpus": settings.expert_num_cpus},
            max_ongoing_requests=settings.max_ongoing_calls,
            health_check_period_s=HEALTH_CHECK_PERIOD_S,
            max_constructor_retry_count=START_ATTEMPTS,
        )(ExpertReplica).bind(
            **where, expert=name, threads=settings.threads, max_padded_tokens=settings.max_padded_tokens
        )
        for name in bundle.manifest.experts
    }
    router = serve.deployment(
        name="RouterStage",
        num_replicas=settings.router_replicas,
        ray_actor_options={"num_cpus": settings.router_num_cpus},
        max_ongoing_requests=settings.max_ongoing_calls,
        max_queued_requests=settings.max_queued_calls,
        backpressure_config=BackpressureConfig(retry_after_s=1),
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        max_constructor_retry_count=START_ATTEMPTS,
    )(serve.ingress()(RouterStage))
    return router.bind(
        **where,
        experts=experts,
        limits=stage_limits(settings),
    )


def stage_limits(settings: ServeSettings) -> StageLimits:
    """The part of the settings that bounds the router stage."""
    return StageLimits(
        calls=CallLimits(
            max_rows=settings.max_call_rows, max_tokens=settings.max_call_tokens, deadline_s=settings.deadline_s
        ),
        http=HttpLimits(
            max_texts=settings.max_texts,
            max_text_chars=settings.max_text_chars,
            max_body_bytes=settings.max_body_bytes,
        ),
        threads=settings.threads,
    )


def expert_deployment_name(expert: str, bundle_id: str) -> str:
    """Named with the bundle, so that the experts of two bundles stand side by side."""
    return f"expert-{expert}-{bundle_id[:8]}"


def check_capacity(settings: ServeSettings, bundle: Bundle) -> None:
    """Refuse what can never fit; warn of what must wait for others.

    Raises:
        SetupError: the cluster has too few CPUs even when nothing else runs.
    """
    if not ray.is_initialized():
        return
    resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # ray has no type here
    free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # nor here
    demands = demands_of(settings, bundle.manifest.experts)
    if shortage := explain_shortage(demands, resources):
        raise SetupError(f"the cluster is too small: {shortage}")
    if shortage := explain_shortage(demands, free):
        log.warning("waiting for others to free what they hold: %s", shortage)
