"""What a job asks a scheduler for: memory, minutes and GPUs; posttrain/workflow/resources.py decides."""

from posttrain.compat.snakemake import chosen, remember_parameters, scheduler
from posttrain.runtime import slurm
from posttrain.workflow import partitions, resources

SHARED = ("logprobs", "topk", "select", "eval", "predict")  # stages whose rows several processes share


def subject(wildcards):
    """What a job is named after in the records of earlier jobs."""
    return os.sep.join(wildcards[key] for key in ("base", "run", "dataset", "sweep") if key in wildcards.keys())


def measured(wildcards, rulename):
    """What earlier jobs took; nobody asks where the job runs on this machine."""
    return resources.records(rulename, subject(wildcards)) if scheduler(workflow) else None


def model_of(wildcards):
    """The folder of the base that a job's model descends from; None for a job without a model."""
    if "run" in wildcards.keys():
        return Path(paths.base(PROJECT.lineage(wildcards.run)[0], "model"))
    return Path(paths.base(wildcards.base, "model")) if "base" in wildcards.keys() else None


def partition_of(rulename):
    """The partition that a rule's jobs are sent to; None where Slurm does not run them."""
    if scheduler(workflow) != "slurm" and partitions.VARIABLE not in os.environ:
        return None
    return partitions.ask().get(chosen(workflow, "slurm_partition", rulename))


def job_gpus(wildcards, rulename):
    partition = partition_of(rulename)
    if partition and not partition.gpus:
        return 0
    return processes(rulename)


def processes(rulename):
    return PROJECT.config.hardware.processes if rulename in OBJECTIVES or rulename in SHARED else 1


def job_memory(wildcards, attempt, rulename):
    record, model, partition = measured(wildcards, rulename), model_of(wildcards), partition_of(rulename)
    asked = resources.memory(rulename, record, resources.parameters(model), attempt, processes(rulename))
    if rulename in OBJECTIVES and not record and partition and not partition.gpus:
        return max(asked, resources.on_cpu(json.loads(PROJECT.spec(wildcards.run)), model) * attempt)
    return asked


def job_minutes(wildcards, attempt, rulename):
    partition = partition_of(rulename)
    return resources.minutes(rulename, measured(wildcards, rulename), attempt, partition and partition.minutes)


def check_cluster():
    """Refuse a partition or an account that Slurm would refuse, before anything is sent to it."""
    if scheduler(workflow) != "slurm":
        return
    os.environ.setdefault(slurm.VARIABLE, str(slurm.STOP_SECONDS))
    names = [chosen(workflow, "slurm_partition", rule.name) for rule in workflow.rules]
    account = chosen(workflow, "slurm_account")
    try:
        partitions.check(list(dict.fromkeys(names)), account, workflow.executor_settings.no_account)
    except UserError as error:
        sys.exit(f"posttrain: {error}")


remember_parameters(globals())  # of the functions of this file and of common.smk
