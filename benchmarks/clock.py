"""Seconds that functions take, one by one, for the other benchmarks."""

import time


class Clock:
    """Seconds of the calls of watched functions, by name.

    What a watched function calls counts as "outer: inner" and not for the outer one.
    """

    def __init__(self):
        self.calls, self.running = {}, []

    def watch(self, owner, name, as_name, only=lambda *_: True):
        """Times an attribute's calls from now on; returns what undoes it."""
        function = getattr(owner, name)

        def timed(*arguments, **options):
            outer = self.running[-1][0] if self.running else None
            key = f"{outer}: {as_name}" if outer else as_name
            self.running.append([key, 0.0])
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.perf_counter() - started
                _, inner = self.running.pop()
                if self.running:
                    self.running[-1][1] += spent
                if only(*arguments):
                    self.calls.setdefault(key, []).append(spent - inner)

        setattr(owner, name, timed)
        return lambda: setattr(owner, name, function)

    def forget_before(self, owner, name):
        """Counts only what follows the last call of a function."""
        function = getattr(owner, name)

        def forgetting(*arguments, **options):
            self.calls.clear()
            return function(*arguments, **options)

        setattr(owner, name, forgetting)
        return lambda: setattr(owner, name, function)

    def totals(self):
        """Seconds of all calls, by name."""
        return {name: round(sum(own), 3) for name, own in self.calls.items()}
