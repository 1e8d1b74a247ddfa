"""A policy service in a test's hands."""

import asyncio
import json
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg


class PolicyService:
    """Says no to the pairs of ``blocked`` (caller, callee), after ``delay`` seconds; ``raw``: answers that instead."""

    def __init__(self) -> None:
        self.blocked: set[tuple[str, str]] = set()
        self.delay = 0.0
        self.raw: bytes | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, client: Client) -> None:
        """Answer what is asked, from now on."""
        await client.subscribe("rpc.policy.*", cb=self._on_question)
        await client.flush()

    async def _on_question(self, message: Msg) -> None:
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Msg) -> None:
        verb, question = message.subject.rpartition(".")[2], json.loads(message.data)
        self.asked.append((verb, question))
        pair = (
            question.get("caller") or question.get("asker"),
            question.get("callee") or question.get("user"),
        )
        await asyncio.sleep(self.delay)
        allowed = json.dumps({"allowed": pair not in self.blocked}).encode()
        await message.respond(allowed if self.raw is None else self.raw)
