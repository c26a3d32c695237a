"""The state store on Redis or Valkey: profiles and partition states, one hash slot a partition."""

from __future__ import annotations

from streamer.adapters.redis_state.link import RedisSettings
from streamer.adapters.redis_state.store import RedisStateStore

__all__ = ["RedisSettings", "RedisStateStore"]
