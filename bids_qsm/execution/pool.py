"""Run graphs of Nipype's nodes in worker processes, as many steps at a time as CPUs and memory allow."""

from bisect import insort

from nipype.pipeline.engine.utils import topological_sort
from nipype.pipeline.plugins.base import PluginBase
from nipype.pipeline.plugins.tools import report_crash

from bids_qsm.execution.workers import Workers

AHEAD = 2
"""Graphs in work beyond one a worker, at most: their steps fill gaps, and yet memory stays flat."""


class PoolPlugin(PluginBase):
    """Run nodes in worker processes within ``n_procs`` CPUs, ``memory_gb``, and ``n_workers`` (one a CPU).

    Each worker has ``n_threads`` for its numerics. A node that fails, or whose worker is killed, stops only
    what depends on it. Before ``status_callback`` tells of a node's end, ``node.measured`` says what it took:
    seconds, cpu_seconds, peak_gb (above what the worker held before) and resident_gb (in all), the last two
    None where the system does not tell; None for nodes whose earlier results are used, or whose worker was
    killed.
    """

    def __init__(self, plugin_args):
        super().__init__(plugin_args)
        self.processors = plugin_args['n_procs']
        self.memory_gb = plugin_args['memory_gb']
        self.n_workers = plugin_args.get('n_workers', self.processors)
        self._workers = Workers(
            n_threads=plugin_args.get('n_threads', 1), log_level=plugin_args.get('log_level', 'WARNING')
        )
        self._ready, self._running = [], {}
        self._n_live, self._is_stopped = 0, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End the workers and whatever they are doing."""
        self._workers.stop()

    def limit(self, *, workers: int, memory_gb: float):
        """Run at most ``workers`` steps at a time that share ``memory_gb``, from now on."""
        self.n_workers, self.memory_gb = workers, memory_gb
        self._workers.limit(workers)

    def run(self, graph, config, updatehash=False):  # noqa: ARG002
        """Run one graph, as Nipype asks for it; RuntimeError where a node failed."""
        (live,) = self.run_all([graph])
        if live.crashes:
            raise RuntimeError(f'{len(live.crashes)} steps failed; see {live.crashes[0]}')

    def run_all(self, graphs):
        """Run ``graphs``, each taken when workers would lack work; yield each (see Live) at its end.

        With ``stop_on_first_crash`` the first failure ends everything.
        """
        graphs, has_more = enumerate(graphs), True
        while has_more or self._n_live:
            if has_more and self._lacks_work():
                number, graph = next(graphs, (None, None))
                has_more = graph is not None
                if has_more:
                    self._add(Live(graph, number))
            yield from self._submit()
            # while there is more to prepare, only look; what ended meanwhile goes first
            is_preparing = has_more and self._lacks_work()
            for step, reply in self._workers.wait(0 if is_preparing else None) if self._running else ():
                yield from self._finish(step, **reply)
                if self._is_stopped:
                    return

    def _lacks_work(self):
        return len(self._ready) < self.n_workers and self._n_live < self.n_workers + AHEAD

    def _add(self, live):
        self._n_live += 1
        for step in live.begin():
            insort(self._ready, step)

    def _submit(self):
        """Start what is ready and fits, the first graphs' longest chains first."""
        at = 0
        while at < len(self._ready):
            step = self._ready[at]
            if not self._fits(step.node):
                at += 1
                continue
            del self._ready[at]
            step.node.measured = None
            if _is_done(step.node):
                yield from self._finish(step, traceback=None, measured=None)
                at = 0  # what it lets begin may come first
            else:
                self._tell(step.node, 'start')
                self._workers.start(step, step.node)
                self._running[step] = step.node

    def _fits(self, node):
        """Whether a node may start beside those that run; alone, any may. One at a time has the GPU."""
        running = self._running.values()
        return not running or (
            len(running) < self.n_workers
            and not (_is_on_gpu(node) and any(map(_is_on_gpu, running)))
            and sum(one.n_procs for one in running) + node.n_procs <= self.processors
            and sum(one.mem_gb for one in running) + node.mem_gb <= self.memory_gb
        )

    def _finish(self, step, *, traceback, measured):
        self._running.pop(step, None)
        live, node = step.live, step.node
        node.measured = measured
        if traceback is None:
            self._tell(node, 'end')
            for after in live.end(step):
                insort(self._ready, after)
        else:
            node._traceback = traceback
            live.crashes.append(report_crash(node, traceback=traceback))
            self._tell(node, 'exception')
            live.give_up(step)
            self._is_stopped = self.plugin_args.get('stop_on_first_crash', False)
        if not live.left or self._is_stopped:
            self._n_live -= 1
            yield live

    def _tell(self, node, status):
        if self._status_callback:
            self._status_callback(node, status)


class Step:
    """A node of a graph in work; sorts by when it should run."""

    def __init__(self, node, live, rank):
        self.node, self.live, self.rank = node, live, rank

    def __lt__(self, other):
        return self.rank < other.rank


class Live:
    """A graph in work: how many of its steps are ``left``, and the ``crashes`` (files) of what failed."""

    def __init__(self, graph, number):
        self.number, self.crashes = number, []
        nodes = topological_sort(graph)[0]
        height = {}
        for node in reversed(nodes):
            height[node] = 1 + max((height[after] for after in graph.successors(node)), default=0)
        steps = {node: Step(node, self, (number, -height[node], order)) for order, node in enumerate(nodes)}
        self._after = {steps[n]: [steps[after] for after in graph.successors(n)] for n in nodes}
        self._waits_for = {steps[node]: graph.in_degree(node) for node in nodes}

    @property
    def left(self) -> int:
        return len(self._after)

    def begin(self):
        """Steps that wait for nothing."""
        return [step for step, n in self._waits_for.items() if not n]

    def end(self, step):
        """Take ``step`` as done; return the steps that may begin now."""
        done = self._after.pop(step)
        for after in done:
            self._waits_for[after] -= 1
        return [after for after in done if not self._waits_for[after] and after in self._after]

    def give_up(self, step):
        """Take ``step`` and all that depends on it off the list."""
        for after in self._after.pop(step, ()):
            self.give_up(after)


def _is_on_gpu(node):
    return getattr(node.inputs, 'device', 'cpu') != 'cpu'


def _is_done(node):
    """Whether an earlier run left the node's results, made from the same input."""
    if node.overwrite or (node.overwrite is None and node.interface.always_run):
        return False
    try:
        return all(node.is_cached())
    except Exception:
        # such as an unreadable file; the step itself meets it too, and is the one to tell
        return False
