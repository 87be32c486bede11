"""A logger: losses in TensorBoard. It needs `pip install tensorboard`.

    psld train logger=boards:TensorBoard name=boards

Then `tensorboard --logdir boards` shows them. A logger that fails prints its traceback and gets
nothing more, as does one that takes more than five seconds in a call. The training goes on.
"""

from psld.parts import Logger


class TensorBoard(Logger):
    """Each number of the history as a curve."""

    def start(self, run, settings, from_step):
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(f"boards/{run.name}")

        def log(entry):  # None at the end
            for name, value in (entry or {}).items():
                writer.add_scalar(name, value, entry["step"], entry["time"])
            writer.flush()

        return log
