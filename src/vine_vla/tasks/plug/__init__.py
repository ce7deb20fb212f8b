"""PlugInsertion: MuJoCo, a plug, sockets with neighbours, scripted operators."""
