"""Reaching a running installation: its broker, the rules in force, and the topics that follow from them."""

from datetime import timedelta

from registry.load import load_catalogue
from registry.log import read_history
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue
from schemas.errors import ConfigurationError
from schemas.settings import Settings, TopicSettings
from streams.errors import TopicMissingError
from streams.ordered_log import KafkaOrderedLog
from streams.runtime import Platform
from streams.topics import REGISTRY, Topic, table


def snapshot_log(platform: Platform) -> KafkaOrderedLog:
    """The registry topic, to be opened."""
    return KafkaOrderedLog(platform.connection, topic=platform.names.topic(REGISTRY), kind=platform.capabilities.kind)


async def rules_in_force(platform: Platform) -> Snapshot | None:
    """The snapshot that rules; None if nothing was published.

    Raises:
        ConfigurationError: The newest can't be used by this program.
        DeliveryError: The broker does not answer.
    """
    try:
        async with snapshot_log(platform) as log:
            snapshot, problem = (await read_history(log)).current()
    except TopicMissingError:
        return None
    if snapshot is None and problem:
        raise ConfigurationError(f"the registry's newest snapshot can't be used here: {problem}")
    return snapshot


async def catalogue_of(platform: Platform, settings: Settings, given: str | None) -> Catalogue:
    """The catalogue that an option names, else the one in force.

    Raises:
        ConfigurationError: Neither; says what to do.
    """
    if given is not None:
        return load_catalogue(given, retention=settings.topics.retention)
    snapshot = await rules_in_force(platform)
    if snapshot is None:
        raise ConfigurationError(
            "no catalogue is published here, and tiers and intake topics are named by it: give one with --catalogue"
        )
    return snapshot.catalogue


def topics_of(catalogue: Catalogue, settings: TopicSettings) -> tuple[Topic, ...]:
    """The topic table of an installation with this catalogue."""
    tiers = tuple(tier.id for tier in catalogue.tiers)
    return table(settings, tiers, tuple(intake.topic for intake in catalogue.intake))


def longest_deadline(catalogue: Catalogue) -> timedelta:
    """The longest that a request may live."""
    return max((intake.max_deadline for intake in catalogue.intake), default=timedelta(0))
