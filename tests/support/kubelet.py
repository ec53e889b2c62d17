"""A ConfigMap volume, as kubelet updates it under a running server."""

import os
import shutil
import tempfile
from datetime import UTC, datetime


class KubeletVolume:
    """A ConfigMap volume as kubelet's AtomicWriter keeps it (kubernetes/pkg/volume/util/atomic_writer.go)."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder = folder

    def write(self, payload):
        data = self.folder / "..data"
        old = self.folder / os.readlink(data) if data.is_symlink() else None
        stamp = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
        new = tempfile.mkdtemp(prefix=stamp, dir=self.folder)
        os.chmod(new, 0o755)  # noqa: S103 - as kubelet does
        for name, content in payload.items():
            path = os.path.join(new, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        visible = {name.partition("/")[0] for name in payload}
        for name in visible:
            if not os.path.lexists(self.folder / name):
                os.symlink(f"..data/{name}", self.folder / name)
        os.symlink(os.path.basename(new), self.folder / "..data_tmp")
        os.rename(self.folder / "..data_tmp", data)
        if old is not None:
            for name in set(os.listdir(old)) - visible:
                os.remove(self.folder / name)
            shutil.rmtree(old)
