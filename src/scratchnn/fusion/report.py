"""What `fused_fits` trained together."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainedStack:
    """Fits that were trained together, in so many ``seconds``."""

    n_models: int
    seconds: float
    sizes: tuple[int, ...]  # neurons per layer, from the columns to the outputs
    n_samples: int
    alone: str | None  # why, if it is one fit that could not be stacked

    @property
    def seconds_per_fit(self) -> float:
        """Seconds of training, divided by the number of fits."""
        return self.seconds / self.n_models

    def __str__(self) -> str:
        what = f"{self.n_models} x {'-'.join(map(str, self.sizes))} on {self.n_samples} rows: {self.seconds:.2f} s"
        return what if self.alone is None else f"{what} ({self.alone})"


@dataclass
class FusionReport:
    """What the tasks of `fused_fits` trained, in the order of training. Fits that diverged are included.

    ``notes`` say what was asked for and not done, such as several processes for a search on CUDA.
    """

    stacks: list[TrainedStack] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_fits(self) -> int:
        """Number of networks trained."""
        return sum(stack.n_models for stack in self.stacks)

    @property
    def seconds(self) -> float:
        """Seconds of training in all."""
        return sum(stack.seconds for stack in self.stacks)

    def __str__(self) -> str:
        head = f"{self.n_fits} fits in {len(self.stacks)} stacks, {self.seconds:.2f} s of training"
        return "\n".join([head, *self.notes, *map(str, self.stacks)])

    def add(self, stack: TrainedStack, verbose: bool) -> None:
        """Note what has been trained, and print it if asked to."""
        self.stacks.append(stack)
        if verbose:
            print(f"[fused_fits] {stack}", flush=True)

    def note(self, text: str, verbose: bool) -> None:
        """Note what was not done, once, and print it if asked to."""
        if text not in self.notes:
            self.notes.append(text)
            if verbose:
                print(f"[fused_fits] {text}", flush=True)
