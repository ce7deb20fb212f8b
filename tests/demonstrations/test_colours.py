"""Colour noise changes brightness and saturation, never shapes; hues only where none has a name."""

import numpy as np
import pytest
import torch

from vine_vla.learning.augmentation import (
    augment_colours,
    augment_objects,
    brightness_curves,
    mix_channels,
    negate_channels,
)

RED, LIGHT, DARK = (200, 40, 40), (220, 220, 220), (60, 60, 60)


def pictures(count: int) -> torch.Tensor:
    image = np.zeros((8, 8, 3), np.float32)
    image[:, :3], image[:, 3:6], image[:, 6:] = RED, LIGHT, DARK
    return torch.from_numpy(np.stack([image.transpose(2, 0, 1) / 255] * count))


def test_without_noise_nothing_changes():
    images = pictures(3)
    assert torch.equal(augment_colours(images, 0.0, 0.0, np.random.default_rng(0)), images)


def test_tones_move_and_even_change_places_but_hues_and_edges_stay():
    out = augment_colours(pictures(400), 0.0, 1.0, np.random.default_rng(0)).numpy()
    red, light, dark = out[:, :, 0, 0], out[:, :, 0, 4], out[:, :, 0, 7]
    assert np.abs(out - out[:, :, :1]).max() < 1e-6  # rows were equal and are
    assert (red[:, 0] >= red[:, 1] - 1e-6).all() and np.abs(red[:, 1] - red[:, 2]).max() < 1e-6
    assert np.abs(light - light[:, :1]).max() < 1e-6  # grey stays grey
    darker = (light[:, 0] < dark[:, 0]).mean()
    assert 0.1 < darker < 0.5 and light[:, 0].std() > 0.1


def test_mixed_channels_change_hues_and_leave_greys_and_edges():
    images = pictures(400)
    out = mix_channels(images, 0.5, np.random.default_rng(0))
    assert out.min() >= 0 and out.max() <= 1
    grey = images[:, :, :, 3:]
    torch.testing.assert_close(out[:, :, :, 3:], grey)
    same = (out == images).flatten(1).all(1)
    assert 0.4 < same.float().mean() < 0.6
    largest = out[:, :, 0, 0].argmax(1)[~same]
    assert all((largest == channel).float().mean() > 0.2 for channel in range(3))
    assert torch.equal(mix_channels(images, 0.0, np.random.default_rng(0)), images)


def test_share_of_curves_is_kept():
    curves = brightness_curves(1000, 0.3, np.random.default_rng(1))
    assert curves.min() >= 0 and curves.max() <= 1
    straight = (np.abs(curves - np.linspace(0, 1, curves.shape[1])).max(1) < 1e-6).mean()
    assert 0.65 < straight < 0.75


def test_regions_are_painted_apart_and_the_background_stays():
    images = pictures(300)
    regions = torch.zeros(300, 8, 8, dtype=torch.int64)
    regions[:, :, :3], regions[:, :, 6:] = 1, 2
    tint = torch.tensor([0.0, 0.3]).expand(300, 2)
    out = augment_objects(images, regions, tint, 1.0, np.random.default_rng(0)).numpy()
    assert np.array_equal(out[..., 3:6], images.numpy()[..., 3:6])
    red, dark = out[:, :, 0, 0], out[:, :, 0, 7]
    assert np.abs(red[:, 1] - red[:, 2]).max() < 1e-5, "without tint the hue stays"
    assert (dark.max(1) - dark.min(1)).mean() > 0.02, "with tint grey gets one"
    assert abs(np.corrcoef(red[:, 0], dark[:, 0])[0, 1]) < 0.2, "regions are drawn apart"
    untouched = augment_objects(images, torch.zeros_like(regions), tint, 1.0, np.random.default_rng(0))
    assert torch.equal(untouched, images)


def test_negatives_turn_whole_channels_over_in_a_share_of_the_images():
    images = torch.rand(4000, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    out = negate_channels(images, 0.6, np.random.default_rng(0))
    over = (out == 1 - images).flatten(2).all(2)
    assert ((out == images).flatten(2).all(2) | over).all()
    # A channel of a chosen image is turned over half the time; none of the others' is.
    assert over.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert over.any(1).float().mean().item() == pytest.approx(0.6 * 7 / 8, abs=0.03)
    assert torch.equal(negate_channels(images, 0.0, np.random.default_rng(0)), images)
