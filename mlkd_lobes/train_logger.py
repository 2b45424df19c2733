"""TensorBoard curves whose axis is the epoch."""

from speechbrain.utils.train_logger import TensorboardLogger


class EpochTensorboardLogger(TensorboardLogger):
    """SpeechBrain's `TensorboardLogger`, its steps counted by the epoch.

    SpeechBrain counts its own calls: a training that goes on after an
    interruption would begin at step 1 again, over the curve that is there.

    Arguments
    ---------
    save_dir : str
        Where the event files go.
    """

    def log_stats(
        self,
        stats_meta,
        train_stats=None,
        valid_stats=None,
        test_stats=None,
        verbose=False,
    ):
        """Writes an epoch's numbers.

        Arguments
        ---------
        stats_meta : dict
            Holds "epoch".
        train_stats : dict, optional
            Of training.
        valid_stats : dict, optional
            Of validation.
        test_stats : dict, optional
            Of a test.
        verbose : bool
            As in SpeechBrain, without effect.
        """
        before = stats_meta["epoch"] - 1
        stats = {"train": train_stats, "valid": valid_stats, "test": test_stats}
        self.global_step = {
            name: dict.fromkeys(values or {}, before)
            for name, values in stats.items()
        }
        self.global_step["meta"] = before
        super().log_stats(
            stats_meta, train_stats, valid_stats, test_stats, verbose
        )
