"""What has changed between two versions of a dataset: output folders or published ones."""
