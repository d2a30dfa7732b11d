"""What every training shares: batches, optimizer, callbacks, the run of Lightning's Trainer."""
