"""Print the installed packages as constraints, public versions only (2.13.0, never 2.13.0+cpu).

python envs/pin.py > envs/constraints.txt
"""

from importlib.metadata import distributions

print(
    "# Every version that the workflow is tested with, public versions only: on a machine with a GPU the same pin of torch"
)
print("# gives its CUDA build. Made with `make constraints`.")
names = {item.metadata["Name"].lower().replace("_", "-"): item.version.split("+")[0] for item in distributions()}
for name in sorted(names.keys() - {"pip", "setuptools", "posttrain"}):
    print(f"{name}=={names[name]}")
