"""A network as others write them: outputs in tuples and dicts, a layer called twice, one that writes in place."""

from torch import Tensor, nn


class _Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[int, dict[str, Tensor]]:
        return 7, {"features": self.act(self.norm(self.down(x)))}


class Network(nn.Module):
    """Strides 2 (stem), 4 (deep), 4 (classifier) and 1 (the network itself)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.deep = _Deep()
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Conv2d(8, num_classes, 1)
        self.up = nn.Upsample(scale_factor=4, mode="bilinear")
        self.idle = nn.Identity()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.deep(self.stem(x))[1]["features"]
        features = self.again(self.again(features)) * self.pool(features).sigmoid()
        return {"out": self.up(self.classifier(features))}


def make(num_classes: int = 5) -> Network:
    return Network(num_classes)


def no_network() -> str:
    return "text"
