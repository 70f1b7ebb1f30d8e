"""Exports: a release's rows in layouts that other tools read. Extend with one file and one entry here."""

from augmill.tasks.exports.coco import CocoExport
from augmill.tasks.exports.contract import Export, Exported
from augmill.tasks.exports.folders import AudioFolderExport, ImageFolderExport
from augmill.tasks.exports.tars import WebDatasetExport

__all__ = ["EXPORTS", "Export", "Exported"]

EXPORTS: dict[str, Export] = {
    "coco": CocoExport(),
    "imagefolder": ImageFolderExport(),
    "audiofolder": AudioFolderExport(),
    "webdataset": WebDatasetExport(),
}
