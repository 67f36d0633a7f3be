"""The lab: tasks, clones, attacks, baselines. Never imported by the product's layers; extra ``lab``."""
