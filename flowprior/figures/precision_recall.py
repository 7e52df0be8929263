"""The figure "prd": precision and recall of the samples, as a curve."""

from flowprior.figures.runs import FigureRun, NotApplicable
from flowprior.figures.style import COLORS, Figure, panels, ruled
from flowprior.metrics import classifier_features, extract, prd
from flowprior.registry import figure
from flowprior.tensors import as_input

SAMPLES = 5000
FEWEST = 20  # clusters that features are counted in


@figure("prd", needs=("images", "labels"))
def precision_recall(run: FigureRun) -> Figure:
    """Precision against recall of samples, by the features of a classifier of the data (GLF, Table 3)."""
    import torch

    train, test = run.source.train(), run.test
    if train.label is None or test.label is None:
        raise NotApplicable("it needs labels, of training and test examples.")
    network = classifier_features(
        train.x,
        train.label,
        test.x,
        test.label,
        data_fingerprint=f"{train.fingerprint} {test.fingerprint}",
        device=run.model.device,
    )
    network.to(run.model.device)
    count = min(SAMPLES, len(test))
    if count < FEWEST:
        raise NotApplicable(f"it needs {FEWEST} test images or more, and there are {count}.")
    samples = torch.cat([run.samples(len(part)) for part in torch.arange(count).split(500)])
    copies = run.model.reconstruct(
        as_input(test.x[:count].to(run.model.device)), run.context(torch.arange(count))
    )
    real = torch.cat(list(extract(test.x[:count], network))).cpu()
    picture, (ax,) = panels(1, 1, 4.2, 3.8)
    for color, (name, images) in zip(
        COLORS, {"samples": samples, "reconstructions": copies}.items(), strict=False
    ):
        curve = prd(torch.cat(list(extract(images, network))).cpu(), real)
        label = f"{name}: F8 {curve.f8:.3f}, F1/8 {curve.f1_8:.3f}"
        ax.plot(curve.recall, curve.precision, color=color, linewidth=1.6, label=label)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    ax.set_title(f"{run.name}: {count} images by classifier features", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="lower left")
    ruled(ax)
    return picture
