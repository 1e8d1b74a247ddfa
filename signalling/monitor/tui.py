"""Show the live screen of ``signalling monitor``."""

import asyncio
import time
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from shared.errors import Unavailable
from shared.nats.connection import Bus
from signalling.monitor import history, tables
from signalling.monitor.collector import Collector
from signalling.monitor.snapshot import Snapshot
from signalling.monitor.tables import Order

CALLS_SHOWN = 500
REST = 4
"""Limits the share of time spent on snapshots: on a system with many calls they become rarer."""


class Timeline(ModalScreen[None]):
    """Shows the timeline of one call."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "dismiss", "Back")]

    def __init__(self, bus: Bus, call: str) -> None:
        super().__init__()
        self._bus = bus
        self._call = call

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll(id="timeline"):
            yield Static("…", id="moments", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Read the timeline now and every second."""
        self.set_interval(1.0, self.reread)
        self.call_later(self.reread)

    async def reread(self) -> None:
        """Show the events recorded so far."""
        try:
            found = await history.read(self._bus, self._call)
        except Unavailable as error:
            text = error.message
        else:
            text = "\n".join(history.page(found)) if found is not None else "nothing recorded yet"
        self.query_one("#moments", Static).update(text)


class Monitor(App[None]):
    """Takes a snapshot every ``interval`` seconds and shows it."""

    TITLE = "signalling"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary, #nats, #rates { height: 1; padding: 0 1; }
    #summary { text-style: bold; }
    #trouble { height: 1; padding: 0 1; background: $error; color: $text; display: none; }
    #trouble.there, #only.there { display: block; }
    #only { display: none; height: 3; }
    #instances { height: auto; max-height: 40%; }
    #calls { height: 1fr; min-height: 4; border-top: solid $primary; }
    #streams { height: auto; max-height: 30%; border-top: solid $primary; }
    #timeline { margin: 2 4; border: round $primary; background: $surface; padding: 1 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("s", "sort", "Sort calls"),
        Binding("r", "turn", "Reverse"),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "unfilter", "All", show=False),
        Binding("p", "pause", "Pause"),
    ]

    def __init__(self, bus: Bus, *, interval: float) -> None:
        super().__init__()
        self._bus = bus
        self._looker = Collector(bus)
        self._interval = interval
        self._order = Order()
        self._paused = False
        self._view: Snapshot | None = None

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Static("looking …", id="summary", markup=False)
        yield Static("", id="nats", markup=False)
        yield Static("", id="rates", markup=False)
        yield Static("", id="trouble", markup=False)
        yield Input(placeholder="part of a user or call", id="only")
        for name in ("instances", "calls", "streams"):
            table: DataTable[str] = DataTable(
                id=name, cursor_type="row" if name == "calls" else "none", zebra_stripes=True
            )
            table.can_focus = name == "calls"
            yield table
        yield Footer()

    def on_mount(self) -> None:
        """Start taking snapshots."""
        self._table("instances").add_columns(*tables.INSTANCES)
        self._table("streams").add_columns(*tables.STREAMS)
        for name in tables.CALLS:
            self._table("calls").add_column(name, key=name)
        self._table("calls").focus()
        self.run_worker(self._keep_looking(), exclusive=True)

    def _table(self, name: str) -> "DataTable[str]":
        table: DataTable[str] = self.query_one(f"#{name}", DataTable)
        return table

    async def _keep_looking(self) -> None:
        await self._looker.start()
        while True:
            begun = time.monotonic()
            try:
                if not self._paused:
                    self._view = await self._looker.look()
                    self._trouble("")
            except Unavailable as error:
                self._trouble(f"{error.message}: what is shown is old")
            if not self._paused:
                self.show()
            took = time.monotonic() - begun
            await asyncio.sleep(max(self._interval - took, took * REST if took > self._interval else 0))

    def _trouble(self, text: str) -> None:
        line = self.query_one("#trouble", Static)
        line.set_class(bool(text), "there")
        line.update(text)

    def show(self) -> None:
        """Show the last snapshot."""
        view = self._view
        if view is None:
            return
        self.query_one("#summary", Static).update(tables.summary(view))
        self.query_one("#nats", Static).update(tables.nats(view))
        self.query_one("#rates", Static).update(tables.rates(view))
        for name, rows in (("instances", tables.instances(view)), ("streams", tables.streams(view))):
            table = self._table(name)
            table.clear()
            table.add_rows(rows)
        self._show_calls(view)

    def _show_calls(self, view: Snapshot) -> None:
        table, order = self._table("calls"), self._order
        calls = tables.calls(view, order)
        chosen, top = self._chosen(), table.scroll_offset.y
        table.clear()
        for call in calls[:CALLS_SHOWN]:
            table.add_row(*tables.call(call), key=call.call)
        if chosen is not None and chosen in table.rows:
            table.move_cursor(row=table.get_row_index(chosen), scroll=False)
            table.scroll_to(y=top, animate=False)
        left = len(calls) - CALLS_SHOWN + view.calls_left
        more = f", {left} more" if left > 0 else ""
        only = f", only with {order.only!r}" if order.only else ""
        table.border_title = f"calls by {order.by}{' reversed' if order.turned else ''}{only}{more}"

    def _chosen(self) -> str | None:
        table = self._table("calls")
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    # --- keys -----------------------------------------------------------------------------------------------------

    def _reorder(self, order: Order) -> None:
        self._order = order
        if self._view is not None:
            self._show_calls(self._view)

    def action_sort(self) -> None:
        """Sort calls by the next column."""
        sorts = tables.CALL_SORTS
        by = sorts[(sorts.index(self._order.by) + 1) % len(sorts)]
        self._reorder(self._order._replace(by=by))

    def action_turn(self) -> None:
        """Reverse the order."""
        self._reorder(self._order._replace(turned=not self._order.turned))

    def action_pause(self) -> None:
        """Pause or resume updates."""
        self._paused = not self._paused
        self._trouble("paused" if self._paused else "")

    def action_filter(self) -> None:
        """Prompt for a part of a user or call."""
        only = self.query_one("#only", Input)
        only.add_class("there")
        only.focus()

    def action_unfilter(self) -> None:
        """Remove the filter."""
        only = self.query_one("#only", Input)
        only.value = ""
        only.remove_class("there")
        self._reorder(self._order._replace(only=""))
        self._table("calls").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Apply the filter while the user types."""
        self._reorder(self._order._replace(only=event.value))

    def on_input_submitted(self, _: Input.Submitted) -> None:
        """Move the focus back to the calls."""
        self._table("calls").focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show the timeline of the selected call."""
        if event.row_key.value is not None:
            self.push_screen(Timeline(self._bus, event.row_key.value))
