"""A wheel has conf/, lazy_configs/ and scripts/ inside of the package; see pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

INSIDE = (
    *("conf/**/*.yaml", "lazy_configs/**/*.py", "scripts/*.py", "scripts/*.html"),
    "requirements-detectron2.lock",
)
# They make this checkout, or work in it.
LEFT_OUT = {
    *("setup", "generate_docs", "publish_docs", "chaos", "benchmark_backbones"),
    *("compare_pretraining", "compare_training_options", "gpu_check", "gpu_report"),
    *("benchmark_startup", "make_pictures", "report_picture"),
}


class WithConfigs(build_py):
    """Build the package, and copy what lies beside it in the checkout; editable installs do not."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for pattern in INSIDE:
            for file in Path().glob(pattern):
                if file.stem not in LEFT_OUT:
                    target = Path(self.build_lib, "panoptic_dl", file)
                    self.mkpath(str(target.parent))
                    self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": WithConfigs})
